"""The loss of the prediction heads, and its gradient.

**Together.** Independent heads are finished one after another (loss.py). Other heads need all their
states before the backward pass anyway. If they are trained at few positions, the rows of several go
through the output together: its weights are read once, and larger products are faster.

**Subset of positions.** A head learns nearly the same from neighbouring positions. Some heads can
therefore be trained at every n-th position, for about an n-th of the cost.

**Targets of the heads.** A draft is accepted if the trunk agrees with it. So a good head predicts
the trunk's prediction, which is not always the next token of the text.

    text      the tokens of the text
    trunk     the trunk's distributions at the positions that the head predicts (as in Hydra++,
              arXiv 2402.05109). They come from the same forward pass and contain more information
              than a single token. Positions beyond the end of the window have no distribution, so
              their target is the token of the text
    teacher   the distribution of the teacher's head of the same depth. Heads that are trained with
              rounding learn from heads without rounding

**Draft vocabulary.** A head that drafts only some of the tokens (heads/draft_vocabulary.py) has a
loss over these. Rows whose next token is another one are left out.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Tensor, backpropagate, no_grad
from minimtp.model.output_loss import Guide, joined_rows, output_loss
from minimtp.model.transformer import LanguageModel

if TYPE_CHECKING:
    from minimtp.model.heads import MultiTokenModel

ALL = slice(None)
ROWS_TOGETHER = 512  # more rows take more memory, and a product is hardly faster per row


def accumulate_in_heads(
    model: "MultiTokenModel",
    hidden: Tensor,
    tokens: Array,
    weights: np.ndarray,
    positions: slice,
    guides: Iterator[Guide | None],
) -> list[Array | None]:
    """Add the gradient of sum_k weights_k L_k to the heads, to the output and to `hidden` (B, T,
    W). Return L_1, ..., L_K.

    guides: for each head in turn, what its B*n rows follow, or None for the tokens of the text.
    """
    following = following_tokens(tokens, model.depth)  # (B, T, K)
    heads = model.heads.states_at(positions, hidden, following, model.trunk)
    used = int(np.flatnonzero(weights)[-1]) + 1  # heads; the weights of the others are 0
    rows = following[:, positions, 0].size  # B*n
    together = 1 if model.heads.independent else max(1, ROWS_TOGETHER // rows)
    losses: list[Array | None] = []
    states, gradients = [], []
    for first in range(0, used, together):
        some = range(first, min(first + together, used))
        part = list(islice(heads, len(some)))  # (B, n, D) each
        targets = [targets_of(tokens, 1 + k, hidden.shape[1], positions) for k in some]  # (B*n,)
        of_part = list(islice(guides, len(some)))
        nats, found = _loss_of_states(model, part, targets, of_part, weights[some])
        losses += nats
        if model.heads.independent:
            backpropagate(part, found)
        else:
            states += part
            gradients += found
    backpropagate(states, gradients)
    return losses + [None] * (model.depth - used)


def _loss_of_states(
    model: "MultiTokenModel",
    states: list[Tensor],
    targets: list[Array],
    guides: list[Guide | None],
    weights: np.ndarray,
) -> tuple[list[Array], list[Array]]:
    """Return the losses of some heads, in nats per row, and the gradients of their states. A row
    counts as 0 if its token cannot be drafted, so that the parts of a batch add up.

    states: (B, n, D) for each head. targets: (B*n,) for each. guides: for all heads, or None for
    all.
    """
    rows, vocabulary = [rows_of(state.data) for state in states], model.heads.draft_vocabulary
    xp, width, size = array_module(rows[0]), model.config.vocabulary_size, len(rows[0])
    guide = None if guides[0] is None else Guide.joined(guides)
    tokens = joined_rows(targets)  # (N,), for all heads
    if vocabulary is not None:
        width, tokens = len(vocabulary), vocabulary.indices_of(tokens)
        guide = None if guide is None else guide.only(tokens >= 0)
    weight = joined_rows([xp.full(size, w / size, rows[0].dtype) for w in weights.tolist()])
    of_text, of_guide = (weight, None) if guide is None else (None, weight)
    nats, gradient = output_loss(
        model.draft_logits, width, joined_rows(rows), tokens, of_text, guide, of_guide
    )
    nats = nats.reshape(len(states), size).mean(axis=1)
    return list(nats), list(gradient.reshape(len(states), *states[0].shape))


def trunk_guides(model: "MultiTokenModel", hidden: Array, positions: slice) -> Iterator[Guide]:
    """For k = 1..K yield the trunk's distributions k positions later, (B*n, V). Beyond the window
    there are none.

    hidden: (B, T, W), the trunk's states.
    """
    xp, (batch, length, _) = array_module(hidden), hidden.shape
    for k in range(1, model.depth + 1):
        later = k + xp.arange(length)[positions]  # (n,)
        states = final_states(hidden[:, xp.minimum(later, length - 1)], model)  # (B, n, D)
        yield Guide(rows_of(states), model.trunk_draft_logits, xp.tile(later < length, batch))


def teacher_guides(
    teacher: "MultiTokenModel",
    model: "MultiTokenModel",
    hidden: Array,
    tokens: Array,
    positions: slice,
) -> Iterator[Guide]:
    """For k = 1..K yield the distributions of the teacher's head k over the tokens that the model
    drafts, (B*n, V).

    hidden: (B, T, W), the teacher's states.
    """
    depth, vocabulary = model.depth, model.heads.draft_vocabulary
    output = partial(teacher.draft_logits, vocabulary=vocabulary)
    with no_grad():
        following = following_tokens(tokens, depth)  # (B, T, K)
        heads = teacher.heads.states_at(positions, Tensor(hidden), following, teacher.trunk)
        states = list(islice(heads, depth))
    for state in states:  # (B, n, D)
        yield Guide(rows_of(state.data), output)


def following_tokens(tokens: Array, depth: int) -> Array:
    """tokens (B, T + 1 + K) -> (B, T, K): the K tokens after each of the T inputs."""
    length = tokens.shape[1] - 1 - depth
    shifted = [tokens[:, k : length + k] for k in range(1, depth + 1)]
    return array_module(tokens).stack(shifted, axis=-1)


def targets_of(tokens: Array, k: int, length: int, positions: slice = ALL) -> Array:
    """Return the tokens (B*n,) that head k has to predict at the n positions."""
    return tokens[:, 1 + k : 1 + k + length][:, positions].reshape(-1)


def covered_shares(model: "MultiTokenModel", tokens: Array, positions: slice = ALL) -> np.ndarray:
    """Return the share of the rows of each output, (1 + K,), whose token it can predict: 1 for the
    trunk, less for heads with a draft vocabulary, which the model must have. A loss divided by it
    is the mean over these rows.
    """
    length, vocabulary = tokens.shape[1] - 1 - model.depth, model.heads.draft_vocabulary
    targets = [targets_of(tokens, k, length, positions) for k in range(1, 1 + model.depth)]
    inside = vocabulary.indices_of(joined_rows(targets)).reshape(model.depth, -1) >= 0
    covered = to_numpy(inside.sum(axis=1))  # one transfer from a GPU
    return np.concatenate([[1.0], np.maximum(1, covered) / inside.shape[1]])


def final_states(hidden: Array, model: LanguageModel) -> Array:
    """Return the trunk's final states (..., D) of its states (..., W)."""
    return hidden[..., : model.config.hidden_size]


def rows_of(states: Array) -> Array:
    """(B, T, D) -> (B*T, D)."""
    return states.reshape(-1, states.shape[-1])
