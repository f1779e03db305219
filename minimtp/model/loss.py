"""The loss of multi-token prediction, and its gradient with the logits of only one head in memory
at a time.

    L = L_0 + sum_{k=1..K} w_k L_k,       L_k = mean over rows of -log p_k(token i+1+k)

**Memory.** The logits of one output are (B, T, V), with a real vocabulary by far the largest array
of a training step. Therefore each loss is differentiated with respect to its state as soon as it is
computed, and in chunks of rows (output_loss.py). One backward pass then takes the gradients of all
states through the heads and the trunk. Independent heads do not wait for this pass: each one is
finished before the next begins, as in Gloeckle et al. 2024, section 2. What the trunk's layers keep
for their backward pass grows with the batch, too. If it would fill the memory, the windows of a
batch are processed in several parts.

The heads' share of the loss is in head_loss.py.

**Distillation.** With a teacher, the trunk's loss is a weighted sum of two losses. One uses the
next token of the text. The other uses the teacher's distributions, which give the student a
probability for every token at every position.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import repeat
from typing import NamedTuple

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.fused import CrossEntropy
from minimtp.engine.module import frozen
from minimtp.engine.tensor import Tensor, no_grad
from minimtp.model.head_loss import (
    ALL,
    accumulate_in_heads,
    final_states,
    following_tokens,
    rows_of,
    targets_of,
    teacher_guides,
    trunk_guides,
)
from minimtp.model.output_loss import Guide, Output, output_loss
from minimtp.model.transformer import LanguageModel

# Numbers that the layers of the trunk keep for their backward pass: 1 GB, on a GPU 32 GB.
KEPT_NUMBERS, KEPT_ON_GPU = 1 << 28, 1 << 33
LOGITS_AT_ONCE = 1 << 22  # numbers in a slice of logits if nothing is differentiated: 16 MB


class Objective(NamedTuple):
    """What a training step minimizes.

    head_weights: (K,), the w_k. A head is skipped if its weight and all later weights are 0.
    Empty: all heads are skipped.
    head_positions: the input positions at which the heads are trained. A subset is allowed only if
    the heads `can_skip_positions`.
    detached: train the heads without changing the gradient of the trunk, including embedding and
    output. The trunk's gradient is then the gradient of L_0.
    head_targets: "text", "trunk" or "teacher", as head_loss.py describes them.
    teacher, distill_weight: replace L_0 in the gradient by (1 - d) L_0 + d D, where d is the weight
    and D is the divergence from the teacher.
    """

    head_weights: Sequence[float] | Array = ()
    head_positions: slice = ALL
    detached: bool = False
    head_targets: str = "text"
    teacher: LanguageModel | None = None
    distill_weight: float = 0.0


NEXT_TOKEN = Objective()  # of the text, without heads


def accumulate_gradients(
    model: LanguageModel,
    tokens: Array,
    objective: Objective = NEXT_TOKEN,
    scale: float = 1.0,
    *,
    trunk_states: Array | None = None,
    teacher_states: Array | None = None,
) -> np.ndarray:
    """Add scale * dL/dθ to the parameters' `.grad` and return the losses.

    tokens: (B, T + 1 + K) integers: T inputs, the next token, and K more for the K = model.depth
    heads.
    trunk_states: (B, T, W), of a frozen trunk, which then is not run. L_0 is not computed: it is a
    constant, and would take more time than the heads. teacher_states: (B, T, W), the same for the
    teacher. W is D, or more for heads that read layers of the trunk.
    Returns float64 (1 + K,): L_0, ..., L_K in nats per row, measured on the text, NaN for an output
    that was skipped. With a draft vocabulary, a row whose token is not in it counts as 0
    (`head_loss.covered_shares`), so that the parts of a batch add up.
    """
    at_once = len(tokens)
    if trunk_states is None:
        at_once = _windows_at_once(model, tokens.shape[1] - 1 - model.depth, tokens)
    total = np.zeros(1 + model.depth)
    for start in range(0, len(tokens), at_once):
        rows = slice(start, start + at_once)
        share = len(tokens[rows]) / len(tokens)
        states = (None if each is None else each[rows] for each in (trunk_states, teacher_states))
        total += share * _accumulate(model, tokens[rows], objective, scale * share, *states)
    return total


def _accumulate(
    model: LanguageModel,
    tokens: Array,
    objective: Objective,
    scale: float,
    trunk_states: Array | None,
    teacher_states: Array | None,
) -> np.ndarray:
    """Do the same for windows that are processed together."""
    length = tokens.shape[1] - 1 - model.depth
    head_weights, positions = np.asarray(objective.head_weights), objective.head_positions
    teacher, targets = objective.teacher, objective.head_targets
    inputs = tokens[:, :length]  # (B, T)
    losses: list[Array | None] = [None] * (1 + model.depth)
    trunk_learns = any(parameter.requires_grad for parameter in model.trunk.parameters())
    weight = scale if trunk_learns else 0.0
    # (B, T, W)
    hidden = model.trunk_states(inputs) if trunk_states is None else Tensor(trunk_states)
    # Collects the gradient for the trunk's state.
    leaf = Tensor(hidden.data, requires_grad=trunk_learns)
    follows = weight * objective.distill_weight or (targets == "teacher" and np.any(head_weights))
    if teacher is not None and teacher_states is None and follows:
        with no_grad():
            teacher_states = teacher.trunk_states(inputs).data  # (B, T, W)
    if trunk_states is None:
        guide = None
        if teacher is not None and weight * objective.distill_weight:
            guide = Guide(rows_of(final_states(teacher_states, teacher)), teacher.logits)
        rows = inputs.size
        nats, gradient = output_loss(
            model.logits,
            model.config.vocabulary_size,
            final_states(hidden.data, model),
            targets_of(tokens, 0, length),
            _of_each_row(weight * (1.0 - objective.distill_weight), rows, hidden.data),
            guide,
            _of_each_row(weight * objective.distill_weight, rows, hidden.data),
        )
        losses[0], leaf.grad = nats.mean(), _widened(gradient, hidden.data)
    if np.any(head_weights):
        with frozen(model.trunk) if objective.detached else nullcontext():
            guides: Iterator[Guide | None] = repeat(None)
            if targets == "trunk":
                guides = trunk_guides(model, hidden.data, positions)
            elif targets == "teacher":
                guides = teacher_guides(teacher, model, teacher_states, tokens, positions)
            losses[1:] = accumulate_in_heads(
                model,
                hidden.detach() if objective.detached else leaf,
                tokens,
                head_weights * scale,
                positions,
                guides,
            )
    if trunk_learns:
        hidden.backward(leaf.grad)
    return _to_host(losses)


def evaluate_losses(
    model: LanguageModel,
    tokens: Array,
    watch: Callable[[slice, Array], None] = lambda rows, logits: None,
) -> tuple[Array, Array]:
    """Return the loss of every target and the most likely tokens, without gradients.

    tokens: (B, T + 1 + K) integers. Returns nats (B, T, 1 + K) and tokens (B, T, 1 + K), integers.
    Entry [b, i, k] is about token i+1+k. Head k reads the inputs up to position i and, if it uses
    them, the true tokens in between. watch: is called with each slice of the trunk's logits, as
    from `sliced_logits`, in order. With a draft vocabulary, a head has no loss (NaN) where the
    target is not in it.

    The logits exist for at most LOGITS_AT_ONCE numbers at a time: a window of 2,048 tokens has 400
    MB of them if the vocabulary has 49,152 tokens. The slices change nothing but the last bits of
    the losses, because a matrix product may add in another order for another number of rows.
    """
    xp, length = array_module(tokens), tokens.shape[1] - 1 - model.depth
    nats, predicted = [], []
    with no_grad():
        for k, state in enumerate(states(model, tokens)):
            targets = targets_of(tokens, k, length)  # (B*T,)
            vocabulary = model.heads.draft_vocabulary if k else None
            if vocabulary is not None:
                targets = vocabulary.indices_of(targets)
            losses, choices = [], []
            for rows, logits in sliced_logits(model, state, model.draft_logits if k else None):
                losses.append(CrossEntropy(targets[rows]).forward(logits))
                choices.append(logits.argmax(axis=1))
                if k == 0:
                    watch(rows, logits)
                elif vocabulary is not None:
                    losses[-1] = xp.where(targets[rows] >= 0, losses[-1], xp.nan)
                    choices[-1] = vocabulary.tokens_at(choices[-1])
            nats.append(xp.concatenate(losses).reshape(-1, length))
            predicted.append(xp.concatenate(choices).reshape(-1, length))
    return xp.stack(nats, axis=-1), xp.stack(predicted, axis=-1)


def states(model: LanguageModel, tokens: Array) -> Iterator[Tensor]:
    """Yield the trunk's hidden state (B, T, D), and then the state of each head.

    tokens: (B, T + 1 + K) integers.
    """
    length = tokens.shape[1] - 1 - model.depth
    hidden = model.trunk_states(tokens[:, :length])  # (B, T, W)
    yield Tensor(final_states(hidden.data, model))
    if model.depth:
        yield from model.heads.states(hidden, following_tokens(tokens, model.depth), model.trunk)


def sliced_logits(
    model: LanguageModel, state: Tensor, output: Output | None = None
) -> Iterator[tuple[slice, Array]]:
    """Yield (rows, their logits) for a state of B*T rows: slices, and (rows, V) arrays of at most
    LOGITS_AT_ONCE numbers.

    output: None is the model's output.
    """
    output = output or model.logits
    flat = state.data.reshape(-1, state.shape[-1])  # (B*T, D)
    size = max(1, LOGITS_AT_ONCE // model.config.vocabulary_size)
    for start in range(0, len(flat), size):
        rows = slice(start, min(start + size, len(flat)))
        yield rows, output(Tensor(flat[rows])).data


def _to_host(losses: list[Array | None]) -> np.ndarray:
    """Return the losses as float64, NaN for None. Copies all of them from the device together."""
    result = np.full(len(losses), np.nan)
    known = [i for i, loss in enumerate(losses) if loss is not None]
    if known:
        found = [losses[i] for i in known]
        result[known] = to_numpy(array_module(found[0]).stack(found))
    return result


def _widened(gradient: Array, hidden: Array) -> Array:
    """Return the gradient (B, T, W) of states of which only the first D numbers have one."""
    if gradient.shape == hidden.shape:
        return gradient
    wide = array_module(hidden).zeros_like(hidden)
    wide[..., : gradient.shape[-1]] = gradient
    return wide


def _of_each_row(weight: float, rows: int, like: Array) -> Array | None:
    """Return (N,) with the weight of each row in a mean, None if it is 0."""
    return array_module(like).full(rows, weight / rows, like.dtype) if weight else None


def _windows_at_once(model: LanguageModel, length: int, like: Array) -> int:
    """Return how many windows of `length` tokens are processed together.

    like: an array of their device.
    """
    config = model.config
    kv_size, queries = config.num_kv_heads * config.head_dim, config.num_heads * config.head_dim
    # Inputs of norms and matrices, gates, rotated queries, keys and values, causal probabilities.
    block = 4 * config.hidden_size + 3 * config.intermediate_size + 3 * queries + 2 * kv_size
    kept = config.num_layers * (block + config.num_heads * (length // 2 + 1)) * length
    limit = KEPT_NUMBERS if array_module(like) is np else KEPT_ON_GPU
    return max(1, limit // kept)
