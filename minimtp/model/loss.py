"""The loss of multi-token prediction, and its gradient with one head's logits in memory at a time.

    L = L_0 + sum_{k=1..K} w_k L_k,       L_k = mean over rows of -log p_k(token i+1+k)

The logits of one head are (B, T, V), usually the largest array of the whole step; K+1 of them at once would cost more than
the trunk. So each head's loss is differentiated down to its state as soon as it is known, and its logits are let go; the
states' gradients then go through the heads and the trunk in one walk (Gloeckle et al. 2024, section 2, has this order for
independent heads, which here too are finished one by one).

Neighbouring positions teach a head nearly the same thing. A head that needs no other position can therefore be trained at
every n-th one, at an n-th of the cost.

A head drafts well when it says what the trunk will say, which is not always what the text says. With the targets "trunk" it
learns from the trunk's own probabilities at the position it looks ahead to (as in Hydra++, arXiv 2402.05109): they are known
from the same forward pass, and tell more than one token does. Beyond the window's end the text itself is the target.

With a teacher, the trunk's own loss is a mixture: a share follows the teacher's probabilities instead of the text's next token,
which tells the student about all tokens at every position (distillation). With the targets "teacher" each head follows the
teacher's head of the same depth: a head that is trained through rounding has the unrounded one to go by.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice, repeat

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.fused import CrossEntropy, SoftCrossEntropy
from minimtp.engine.module import frozen
from minimtp.engine.tensor import Tensor, backpropagate, no_grad
from minimtp.model.transformer import LanguageModel as Model


def accumulate_gradients(
    model: Model,
    tokens: Array,
    head_weights: Array,
    scale: float = 1.0,
    *,
    head_positions: slice = slice(None),
    detached: bool = False,
    head_targets: str = "text",
    teacher: Model | None = None,
    distill_weight: float = 0.0,
) -> np.ndarray:
    """Add scale * dL/dθ to the parameters' `.grad` and return the losses.

    tokens: (B, T + 1 + K) integers: T inputs, the next token, and K more for the K = model.depth heads.
    head_weights: (K,), the w_k; a head with weight 0 is neither computed nor trained, nor are those behind it if all are 0.
    head_positions: of the T, those at which the heads are trained; some only if the heads are `positionwise`.
    detached: the heads learn, and the trunk, embedding and output included, gets the gradient of L_0 alone.
    head_targets: what the heads learn: the "text", the "trunk"'s probabilities, or those of the "teacher"'s heads.
    teacher, distill_weight: with weight d, L_0's gradient is (1-d) times its own plus d times the teacher's divergence's.
    Returns float64 (1 + K,): L_0, ..., L_K in nats per row (NaN for a head that was not computed), teacher or not.
    """
    length = tokens.shape[1] - 1 - model.depth
    inputs = tokens[:, :length]
    losses: list[Array | None] = [None] * (1 + model.depth)
    trunk_learns = any(parameter.requires_grad for parameter in model.trunk.parameters())
    weight = scale if trunk_learns else 0.0
    hidden = model.hidden(inputs)
    leaf = Tensor(hidden.data, requires_grad=True)
    own = weight * (1.0 - distill_weight)
    losses[0], leaf.grad, logits = _loss_at(model, hidden.data, _targets(tokens, 0, length), own)
    if teacher is not None and weight * distill_weight:
        leaf.grad += _distillation_gradient(
            model, teacher, inputs, hidden.data, weight * distill_weight
        )
    if np.any(np.asarray(head_weights)):
        with frozen(model.trunk) if detached else nullcontext():
            start = hidden.detach() if detached else leaf
            laws: Iterator[Array | None] = repeat(None)
            if head_targets == "trunk":
                laws = _trunk_laws(logits.reshape(*inputs.shape, -1), tokens, head_positions)
            elif head_targets == "teacher":
                laws = _teacher_laws(teacher, tokens, length, model.depth, head_positions)
            weights = np.asarray(head_weights) * scale
            losses[1:] = _accumulate_in_heads(model, start, tokens, weights, head_positions, laws)
    if trunk_learns:
        hidden.backward(leaf.grad)
    return _on_the_host(losses)


def _accumulate_in_heads(
    model: Model,
    hidden: Tensor,
    tokens: Array,
    weights: np.ndarray,
    positions: slice,
    laws: Iterator[Array | None],
) -> list[Array | None]:
    """Add the gradients of sum_k weights_k L_k to the heads', the output's and `hidden`'s, and return L_1..L_K.

    laws: for each head in turn, (B*n, V), what it learns instead of the text.
    """
    length = hidden.shape[1]
    losses: list[Array | None] = [None] * model.depth
    if positions.indices(length) != (0, length, 1):
        hidden = hidden[:, positions]  # (B, n, D)
    following = _following(tokens, model.depth)[:, positions]  # (B, n, K)
    states, gradients = [], []
    for k, state in enumerate(model.heads.states(hidden, following, model.trunk), start=1):
        targets = _targets(tokens, k, length, positions)
        losses[k - 1], gradient, _ = _loss_at(
            model, state.data, targets, float(weights[k - 1]), next(laws)
        )
        if model.heads.independent:
            state.backward(gradient)
        else:
            states.append(state)
            gradients.append(gradient)
        if not weights[k:].any():
            break
    backpropagate(states, gradients)
    return losses


def evaluate_losses(model: Model, tokens: Array) -> tuple[Array, Array]:
    """What each target costs, without gradients.

    tokens: (B, T + 1 + K) integers. Returns nats (B, T, 1 + K) and the most probable tokens (integers, same shape); index k of
    the last axis is about token i+1+k, with the tokens in between given.
    """
    length = tokens.shape[1] - 1 - model.depth
    nats, predicted = [], []
    with no_grad():
        hidden = model.hidden(tokens[:, :length])
        states = (
            model.heads.states(hidden, _following(tokens, model.depth), model.trunk)
            if model.depth
            else ()
        )
        for k, state in enumerate((hidden, *states)):
            targets = _targets(tokens, k, length)
            logits = model.logits(state).data.reshape(targets.size, -1)
            nats.append(CrossEntropy(targets).forward(logits).reshape(-1, length))
            predicted.append(logits.argmax(axis=1).reshape(-1, length))
    xp = array_module(tokens)
    return xp.stack(nats, axis=-1), xp.stack(predicted, axis=-1)


def _following(tokens: Array, depth: int) -> Array:
    """tokens (B, T + 1 + K) -> (B, T, K): the K tokens after each of the T inputs."""
    length = tokens.shape[1] - 1 - depth
    return array_module(tokens).stack(
        [tokens[:, k : length + k] for k in range(1, depth + 1)], axis=-1
    )


def _targets(tokens: Array, k: int, length: int, positions: slice = slice(None)) -> Array:
    """(B*n,) tokens that head k is to predict at the n positions."""
    return tokens[:, 1 + k : 1 + k + length][:, positions].reshape(-1)


def _on_the_host(losses: list[Array | None]) -> np.ndarray:
    """float64, NaN for None; a device is read once for all of them."""
    result = np.full(len(losses), np.nan)
    known = [i for i, loss in enumerate(losses) if loss is not None]
    result[known] = to_numpy(array_module(losses[0]).stack([losses[i] for i in known]))
    return result


def _loss_at(
    model: Model, state: Array, targets: Array, weight: float, law: Array | None = None
) -> tuple[Array, Array, Array]:
    """Mean nats of the targets at `state` (B, T, D), weight times the gradient at the state, and the logits (B*T, V).

    The output learns too. law: (B*T, V), what the gradient follows instead of the targets.
    """
    leaf = Tensor(state, requires_grad=True)
    logits = model.logits(leaf)
    rows = logits.reshape(targets.size, -1)  # (B*T, V)
    losses = (CrossEntropy(targets) if law is None else SoftCrossEntropy(law)).apply(rows)
    nats = losses.data if law is None else CrossEntropy(targets).forward(rows.data)
    loss = nats.mean()  # stays on the device, which need not stop for it
    if weight == 0.0:
        return loss, array_module(state).zeros_like(state), rows.data
    losses.backward(array_module(state).full_like(losses.data, weight / targets.size))
    return loss, leaf.grad, rows.data


def _trunk_laws(logits: Array, tokens: Array, positions: slice) -> Iterator[Array]:
    """For k = 1..K what follows k tokens further, (B*n, V): by the trunk's (B, T, V) where it has seen it, else by the text.

    Overwrites the logits.
    """
    xp, length = array_module(logits), logits.shape[1]
    laws = _softmax(logits)
    text = (tokens[:, length + 1 :, None] == xp.arange(laws.shape[-1])).astype(
        laws.dtype
    )  # (B, K, V)
    laws = xp.concatenate([laws, text], axis=1)  # (B, T + K, V)
    for k in range(1, tokens.shape[1] - length):
        yield laws[:, k : length + k][:, positions].reshape(-1, laws.shape[-1])


def _teacher_laws(
    teacher: Model, tokens: Array, length: int, depth: int, positions: slice
) -> Iterator[Array]:
    """For k = 1..K the probabilities of the teacher's head k, (B*n, V)."""
    with no_grad():
        hidden = teacher.hidden(tokens[:, :length])[:, positions]
        following = _following(tokens, depth)[:, positions]
        states = list(
            islice(teacher.heads.states(hidden, following, teacher.trunk), depth)
        )  # K of (B, n, D)
    for state in states:
        with no_grad():
            logits = teacher.logits(state).data
        yield _softmax(logits.reshape(-1, logits.shape[-1]))


def _softmax(logits: Array) -> Array:
    """(..., V) -> (..., V); overwrites its argument."""
    xp = array_module(logits)
    logits -= logits.max(axis=-1, keepdims=True)
    xp.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def _distillation_gradient(
    model: Model, teacher: Model, inputs: Array, state: Array, weight: float
) -> Array:
    """weight times the gradient, at `state` (B, T, D), of the mean divergence from the teacher; the output learns too."""
    xp = array_module(state)
    with no_grad():
        logits = teacher.logits(teacher.hidden(inputs)).data
    logits = logits.reshape(-1, logits.shape[-1])  # (B*T, V)
    law = _softmax(logits)
    leaf = Tensor(state, requires_grad=True)
    losses = SoftCrossEntropy(law).apply(model.logits(leaf).reshape(*logits.shape))
    losses.backward(xp.full_like(losses.data, weight / logits.shape[0]))
    return leaf.grad
