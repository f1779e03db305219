"""Choosing tokens from rows of logits."""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled, reassociate
from minimtp.kernels.cpu.math import ONE, ZERO, exponential, largest

SEGMENT = 512  # numbers that are added or compared in vectors
NO_NOISE = np.empty((0, 0))
without_nan = {"nnan", "nsz"}


def choose(logits, temperature, noise=None):
    tokens = np.empty(len(logits), np.int64)
    _choose(logits, float(temperature), NO_NOISE if noise is None else noise, tokens)
    return tokens


@compiled
def _choose(logits, temperature, noise, tokens):
    memory, vocabulary, temperature = np.empty(SEGMENT), logits.shape[1], np.float32(temperature)
    for row in range(tokens.shape[0]):
        if noise.shape[0] == 0 and temperature == ONE:
            token = place_of_largest(logits[row])
            tokens[row] = token if token >= 0 and np.isfinite(logits[row, token]) else -1
            continue
        best, token = -np.inf, -1
        # The maximum of a segment is found in vectors. Its place is needed if it is the best.
        for first in range(0, vocabulary, SEGMENT):
            here = slice(first, min(vocabulary, first + SEGMENT))
            scores = memory[: here.stop - first]
            odd = _write_scores(logits[row, here], temperature, scores)
            if odd > 0:
                token = -1
                break
            if noise.shape[0] > 0:
                _add(scores, noise[row, here])
            maximum = _maximum(scores)
            if maximum > best:
                best, token = maximum, first + _first_equal(scores, maximum)
        finite = token >= 0 and np.isfinite(logits[row, token] / temperature)
        tokens[row] = token if finite else -1


@compiled
def _write_scores(logits, temperature, scores):
    """Write logits / temperature, float32, to the float64 scores. Return the number of NaNs."""
    odd = 0
    for v in range(scores.shape[0]):
        score = logits[v] / temperature
        scores[v] = score
        odd += score != score
    return odd


@compiled
def _add(scores, noise):
    for v in range(scores.shape[0]):
        scores[v] += noise[v]


@compiled(fastmath=without_nan)
def _maximum(scores):
    """Return the largest of some scores, none of which is NaN."""
    maximum = scores[0]
    for v in range(1, scores.shape[0]):
        maximum = max(maximum, scores[v])
    return maximum


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
    weights = np.empty(logits.shape[1], np.float32)
    for row in range(logits.shape[0]):
        z, maximum = logits[row], largest(logits[row])
        inverse = ONE / temperatures[row] if temperatures[row] > ZERO else ONE
        if not np.isfinite(maximum * inverse):
            tokens[row] = -1
        elif temperatures[row] == ZERO:
            tokens[row] = place_of_largest(z)
        else:
            total = softmax_weights(z, inverse, weights)
            tokens[row] = pick(points[row], weights) if np.isfinite(total) else -1


@compiled
def place_of_largest(z):
    """Return the index of the largest element, the first if there are several. -1 if one is NaN."""
    best, place = -np.inf, 0
    for first in range(0, z.shape[0], SEGMENT):
        here = z[first : first + SEGMENT]
        if _count_nan(here) > 0:
            return -1
        maximum = largest(here)
        if maximum > best:
            best, place = maximum, first
    return place + _first_equal(z[place : place + SEGMENT], best)


@compiled
def _count_nan(z):
    count = 0
    for v in range(z.shape[0]):
        count += z[v] != z[v]
    return count


@compiled
def _first_equal(z, value):
    for v in range(z.shape[0]):
        if z[v] == value:
            return v
    return -1


@compiled
def softmax_weights(z, scale, weights):
    """Write exp((z - maximum) * scale) to the float32 weights (V,). Return their sum, float64.

    The sum is NaN if the largest element is infinite or if one is NaN.
    """
    return _write_exponentials(z, largest(z), scale, weights)


@compiled(fastmath=reassociate)
def _write_exponentials(z, maximum, scale, weights):
    total = 0.0
    for v in range(z.shape[0]):
        weight = exponential((z[v] - maximum) * scale)
        weights[v] = weight
        total += np.float64(weight)
    return total


@compiled(fastmath=reassociate)
def total_of(weights):
    """Return the sum of the weights (V,), float64."""
    total = 0.0
    for v in range(weights.shape[0]):
        total += np.float64(weights[v])
    return total


@compiled
def pick(point, weights):
    """Return the index at which the sum of the weights (V,) exceeds `point`, as a share of their
    whole sum. It is never one with weight 0. -1 if all weights are 0.

    Sums of segments come first, because they can be added in vectors.
    """
    segments = (weights.shape[0] + SEGMENT - 1) // SEGMENT
    sums, total = np.empty(segments), 0.0
    for segment in range(segments):
        sums[segment] = total_of(weights[segment * SEGMENT : (segment + 1) * SEGMENT])
        total += sums[segment]
    point, last = point * total, -1
    for segment in range(segments):
        if point >= sums[segment] and segment + 1 < segments:
            point -= sums[segment]
            continue
        for v in range(segment * SEGMENT, min(weights.shape[0], (segment + 1) * SEGMENT)):
            weight = np.float64(weights[v])
            if weight > 0.0:
                last = v
                if point < weight:
                    return v
                point -= weight
        # The sum of the segment was rounded: go on with the first token of the next one.
        point = 0.0
    if last < 0 and total > 0.0:
        for v in range(weights.shape[0]):
            last = v if weights[v] > 0.0 else last
    return last
