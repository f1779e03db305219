"""Choosing tokens from rows of logits."""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import ONE, ZERO, exponential, exponentiate, largest

SEGMENT = 512  # logits whose exponentials are added as float32


def choose(logits, temperature, noise=None):
    # NumPy's argmax uses vector instructions, a loop compiled by Numba does not: 5 times slower at
    # 50,000 tokens.
    scores = logits if temperature == 1 else logits / temperature
    tokens = (scores if noise is None else scores + noise).argmax(axis=-1)
    _mark_non_finite(scores, tokens)
    return tokens


@compiled
def _mark_non_finite(scores, tokens):
    for row in range(tokens.shape[0]):
        if not np.isfinite(scores[row, tokens[row]]):
            tokens[row] = -1


def sample(logits, temperatures, points):
    tokens = np.empty(len(logits), np.int64)
    _sample(
        np.ascontiguousarray(logits),
        np.asarray(temperatures, np.float32),
        np.asarray(points, np.float64),
        tokens,
    )
    return tokens


@compiled
def _sample(logits, temperatures, points, tokens):
    vocabulary = logits.shape[1]
    segments = (vocabulary + SEGMENT - 1) // SEGMENT
    sums, buffer = np.empty(segments, np.float64), np.empty(SEGMENT, np.float32)
    for row in range(logits.shape[0]):
        z, maximum = logits[row], largest(logits[row])
        inverse = ONE / temperatures[row] if temperatures[row] > ZERO else ONE
        if not np.isfinite(maximum * inverse):
            tokens[row] = -1
            continue
        if temperatures[row] == ZERO:
            tokens[row] = _first_equal(z, maximum)
            continue
        total = 0.0
        for segment in range(segments):
            first = segment * SEGMENT
            part = buffer[: min(SEGMENT, vocabulary - first)]
            part[:] = z[first : first + part.shape[0]]
            sums[segment] = exponentiate(part, maximum, inverse)
            total += sums[segment]
        tokens[row] = _token_at(points[row] * total, z, maximum, inverse, sums)


@compiled
def _first_equal(z, value):
    for v in range(z.shape[0]):
        if z[v] == value:
            return v
    return -1


@compiled
def _token_at(point, z, maximum, inverse, sums):
    """Return the token at which the sum of the exponentials exceeds `point`. It is never one whose
    exponential is 0.
    """
    last = -1
    for segment in range(sums.shape[0]):
        if point >= sums[segment] and segment + 1 < sums.shape[0]:
            point -= sums[segment]
            continue
        for v in range(segment * SEGMENT, min(z.shape[0], (segment + 1) * SEGMENT)):
            weight = exponential((z[v] - maximum) * inverse)
            if weight > ZERO:
                last = v
                if point < weight:
                    return v
                point -= weight
        # The sum of the segment was rounded: go on with the first token of the next one.
        point = 0.0
    return last
