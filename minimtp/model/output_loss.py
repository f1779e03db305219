"""The loss of one output, and its gradient, with the logits of only a few rows in memory at a time.

The logits of a batch are (rows, V). With the 49,152 tokens of a real vocabulary they are 80 times
larger than the states that they come from, and each further array of this size costs as much again:
the softmax, its gradient, the logits of a model to follow. Therefore the rows are processed in
chunks. In each chunk,

    logits = output(states)              one product
    guide's logits                       one product, if the output follows a model
    losses; logits <- their gradient     one pass, in place (kernels/plain/loss.py)
    states' and output's gradients       two products, or one if the output is frozen

so a chunk keeps one or two arrays of at most LOGITS_IN_TRAINING numbers, and no product is computed
twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import ModuleType

from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Tensor, no_grad

LOGITS_IN_TRAINING = 13 << 20  # numbers in a chunk of logits: 52 MB
LOGITS_ON_GPU = 1 << 26  # the same on a GPU, which needs larger products: 256 MB

Output = Callable[[Tensor], Tensor]  # states (N, D) -> logits (N, V)


@dataclass(frozen=True)
class Guide:
    """The distributions that an output follows: softmax(output(states)), one for each row.

    states: (N, D). followed: (N,) bool: the rows that have a distribution. At the others, the
    output follows the text. None: all rows have one.
    """

    states: Array
    output: Output
    followed: Array | None = None

    def only(self, rows: Array) -> "Guide":
        """Return a guide that follows only these of its rows, (N,) bool."""
        return replace(self, followed=rows if self.followed is None else self.followed & rows)

    @classmethod
    def joined(cls, guides: Sequence["Guide"]) -> "Guide":
        """Return the guide of the rows of several guides with the same output, one after another.
        `followed` must be None in all of them or in none.
        """
        first, followed = guides[0], None
        if first.followed is not None:
            followed = joined_rows([guide.followed for guide in guides])
        return cls(joined_rows([guide.states for guide in guides]), first.output, followed)

    def logits(self, rows: slice) -> Array:
        """Return the logits (M, V) of some rows, without recording operations."""
        with no_grad():
            return self.output(Tensor(self.states[rows])).data


def output_loss(
    output: Output,
    width: int,
    state: Array,
    targets: Array,
    text_weights: Array | None,
    guide: Guide | None = None,
    guide_weights: Array | None = None,
) -> tuple[Array, Array]:
    """Compute the loss of an output at `state` (..., D), N rows, and the gradient of

        sum of text_weights * cross-entropy with the text + guide_weights * divergence from guide

    Add the gradient for the output's parameters to their `.grad`.

    width: V, the number of logits of a row. targets: (N,) tokens of the text, or -1: the row has no
    text. text_weights, guide_weights: (N,), or None for zeros. At rows that the guide does not
    cover, its weight is added to the text's.

    Returns the cross-entropy with the text (N,) in nats, which stays on the device, so the host
    does not wait, and the gradient for the state (..., D).
    """
    xp = array_module(state)
    flat = state.reshape(-1, state.shape[-1])  # (N, D)
    learns = text_weights is not None or guide_weights is not None
    text, guided = (
        xp.zeros(len(flat), flat.dtype) if weights is None else weights
        for weights in (text_weights, guide_weights)
    )
    if guide is not None and guide.followed is not None:
        text, guided = text + guided * ~guide.followed, guided * guide.followed
    gradient = xp.zeros_like(flat)
    losses = []
    for rows in chunks(len(flat), width, xp):
        if learns:
            part = Tensor(flat[rows], requires_grad=True)
            logits = output(part)  # (M, V)
            nats = kernels.for_array(logits.data).mixed_cross_entropy(
                logits.data,
                targets[rows],
                text[rows],
                None if guide is None or guide_weights is None else guide.logits(rows),
                guided[rows],
            )
            logits.backward(logits.data)
            gradient[rows] = part.grad
        else:
            with no_grad():
                logits = output(Tensor(flat[rows])).data
            nats, _ = kernels.for_array(logits).cross_entropy(logits, targets[rows])
        losses.append(nats)
        del logits  # before the next chunk's
    return xp.concatenate(losses), gradient.reshape(state.shape)


def joined_rows(arrays: Sequence[Array]) -> Array:
    """Return the rows of several arrays in one, and a single array without copying it."""
    return array_module(arrays[0]).concatenate(arrays) if len(arrays) > 1 else arrays[0]


def chunks(rows: int, width: int, xp: ModuleType = np) -> Iterator[slice]:
    """Yield slices of about the same size, with at most LOGITS_IN_TRAINING logits each."""
    limit = LOGITS_IN_TRAINING if xp is np else LOGITS_ON_GPU
    count = -(-rows * width // limit)
    ends = [rows * i // count for i in range(count + 1)]
    yield from (slice(a, b) for a, b in pairwise(ends) if b > a)
