"""Attention of a few new tokens over the cache of keys and values, compiled.

For each key/value head, the queries of all its query heads and all new tokens are the rows of one
matrix. Its product with the keys, and the product of the probabilities with the values, use the
few-row products of matrices/packed_linear.py. Keys are stored in panels of 32 neighbouring
positions and values with neighbouring channels, so both are read like weights, once for up to eight
rows. A softmax between the two products covers each row up to the row's own position.

The result of a row does not depend on the number of rows in the call. Later positions get a
probability of exactly zero, which does not change a sum.

A float16 cache reaches the compiled code as the bits of its numbers (`numbers_of`), an int8 cache
as its codes and steps. The tiles convert numbers and codes as they read them. The scores and the
probabilities are multiplied by the steps, which is less work than multiplying keys and values.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled, reassociate
from minimtp.kernels.cpu.math import MIN_KEY, bits_of, exponential, float_of, in_order
from minimtp.kernels.cpu.matrices.packed_linear import multiply_floats
from minimtp.kernels.cpu.matrices.panels import PANEL
from minimtp.kernels.cpu.matrices.vectors import ZEN

ZERO, ONE = np.float32(0), np.float32(1)
NO_STEPS = np.empty((2, 0, 0), np.float32)
# Bytes between a load and the prefetched address. They were measured: on AMD's processors, and in
# float32 while they fit the caches, values are read faster without prefetching.
KEYS_AHEAD = 4096
HALVES_AHEAD = 0 if ZEN else 2048  # of values in float16


def cached_attention(q, keys, values, start, scale):
    rows, heads, head_dim = q.shape
    by_group = (
        q.reshape(rows, len(keys), -1, head_dim).swapaxes(0, 1).reshape(len(keys), -1, head_dim)
    )
    out = np.empty(q.shape, np.float32)
    attend(
        np.ascontiguousarray(by_group),
        np.ascontiguousarray(numbers_of(keys)),
        np.ascontiguousarray(numbers_of(values)),
        start,
        scale,
        NO_STEPS,
        0,
        len(keys),
        out,
    )
    return out


def numbers_of(cache):
    """Return an array of the cache as compiled code takes it: float16 numbers as their bits."""
    return cache.view(np.uint16) if cache.dtype == np.float16 else cache


@compiled
def attend(q, keys, values, start, scale, steps, first_group, stop_group, out):
    """Write `cached_attention` of q (G, T * H/G, C) to out (T, H, C), for the groups from
    `first_group` to before `stop_group`. Rows of a group are ordered by token, then by head.

    steps: (2, G, N P) of an int8 cache, empty for others.
    """
    (groups, rows, head_dim), panels, new = q.shape, keys.shape[1], out.shape[0]
    shared, length = rows // new, start + new
    if (
        start < 0
        or length > min(panels * PANEL, values.shape[0])
        or keys.shape != (groups, panels, head_dim, PANEL)
        or groups * shared != out.shape[1]
        or (steps.size > 0 and steps.shape != (2, groups, panels * PANEL))
    ):
        raise ValueError("cached_attention: the cache does not fit the queries")
    scores = np.empty((rows, (length + PANEL - 1) // PANEL * PANEL), np.float32)
    sums = np.empty((rows, (head_dim + PANEL - 1) // PANEL * PANEL), np.float32)
    all_keys, all_values = keys.reshape(-1), values.reshape(-1)
    inverses = np.empty(rows, np.float32)
    values_ahead = HALVES_AHEAD if values.itemsize == 2 else 0
    for group in range(max(first_group, 0), stop_group):
        queries = q[group]
        for first in range(0, length, PANEL):
            at = (group * panels * PANEL + first) * head_dim
            multiply_floats(queries, all_keys, at, PANEL, head_dim, scores, first, KEYS_AHEAD)
        if steps.size > 0:
            _multiply_columns(scores, steps[0, group], length)
        _softmax(scores, start, shared, np.float32(scale), inverses)
        if steps.size > 0:
            _multiply_columns(scores, steps[1, group], length)
        if head_dim % PANEL == 0:
            for channel in range(0, head_dim, PANEL):
                at = group * head_dim + channel
                multiply_floats(
                    scores, all_values, at, groups * head_dim, length, sums, channel, values_ahead
                )
        else:  # rare: pad the channels with zeros
            filled = _filled_values(values, group, length, sums.shape[1])
            for channel in range(0, head_dim, PANEL):
                multiply_floats(scores, filled, channel, sums.shape[1], length, sums, channel, 0)
        for t in range(new):
            for head in range(shared):
                for c in range(head_dim):
                    out[t, group * shared + head, c] = (
                        sums[t * shared + head, c] * inverses[t * shared + head]
                    )


@compiled
def _multiply_columns(scores, factors, count):
    for row in range(scores.shape[0]):
        for s in range(count):
            scores[row, s] *= factors[s]


@compiled(fastmath=reassociate)
def _softmax(scores, start, shared, scale, inverses):
    """Replace each row's past by exp(scale * (score - max)) and the rest by zeros. Write 1 / sum to
    inverses (R,).

    The sum covers the past padded with zeros to a length that depends on the past alone, because
    the order of the sum depends on the length.
    """
    for row in range(scores.shape[0]):
        past = start + row // shared + 1
        filled = (past + PANEL - 1) // PANEL * PANEL
        for s in range(past, filled):
            scores[row, s] = -np.inf
        key = MIN_KEY
        for s in range(filled):
            key = max(key, in_order(bits_of(scores[row, s])))
        shift, total = float_of(in_order(key)), ZERO
        for s in range(filled):
            share = exponential((scores[row, s] - shift) * scale)
            scores[row, s] = share
            total += share
        for s in range(filled, scores.shape[1]):
            scores[row, s] = ZERO
        inverses[row] = ONE / total


@compiled
def _filled_values(values, group, length, width):
    """Return values[:length, group] padded with zeros to `width` channels, (length * width,)."""
    filled = np.zeros((length, width), values.dtype)
    for s in range(length):
        for c in range(values.shape[2]):
            filled[s, c] = values[s, group, c]
    return filled.reshape(-1)
