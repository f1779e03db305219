"""The trunk on new tokens of several sequences, each with its own cache, in plain array code.

The compiled version multiplies the rows of all sequences by each weight matrix together, so it
reads the weights once and not once per sequence. Only attention goes from sequence to sequence.
"""

from collections.abc import Callable

from minimtp.backend import Array, array_module
from minimtp.kernels.plain.decoding.block import PreparedTrunk, trunk_step


def batched_trunk_step(
    x: Array,
    trunk: PreparedTrunk,
    keys: Array,
    values: Array,
    stretches: Array,
    cosine: Array,
    sine: Array,
    steps: Array | None = None,
) -> tuple[Array, Array]:
    """`trunk_step` on stretches of rows, each of its own sequence -> logits (M, V) of the last row
    of every stretch, hidden (T, D) of all rows.

    x (T, D) is overwritten. stretches: int64 (M, 4), in the order of their rows, which they cover:
    first row, row after the last, sequence, position of the first row. No sequence has two.
    keys (B, L, G, N, C, P) and values (B, L, S, G, C) are the caches of B sequences, and steps
    (B, L, 2, G, N P) belong to int8 caches. cosine and sine (T, C/2) rotate each row to its own
    position.

    Raises ValueError if the rows do not fit the caches.
    """
    return each_stretch(trunk_step, x, trunk, keys, values, stretches, cosine, sine, steps)


def each_stretch(
    step: Callable[..., tuple[Array, Array]],
    x: Array,
    trunk: PreparedTrunk,
    keys: Array,
    values: Array,
    stretches: Array,
    cosine: Array,
    sine: Array,
    steps: Array | None = None,
) -> tuple[Array, Array]:
    """Compute `batched_trunk_step` by one call of `step` for each stretch."""
    logits, hidden = [], []
    for first, stop, sequence, position in stretches.tolist():
        rows = slice(first, stop)
        new_logits, new_hidden = step(
            x[rows], trunk, keys[sequence], values[sequence], position, cosine[rows], sine[rows],
            steps=None if steps is None else steps[sequence],
        )  # fmt: skip
        logits.append(new_logits[-1:])
        hidden.append(new_hidden)
    concatenate = array_module(x).concatenate
    return concatenate(logits), concatenate(hidden)
