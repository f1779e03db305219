"""Top-k and top-p in compiled code: the plain function sorts all scores, this one finds the last
score that is kept.

A sort of 49,152 scores takes longer than a forward pass of a small model. But all that matters is
the lowest kept score, and how many scores that are equal to it are kept. The bits of a float, as an
integer, have the order of the floats (math.py). So the score is found from its highest bits to its
lowest, in three parts. All scores are candidates at first. For each part: add up what the
candidates with each value of these bits have (their number for top-k, their probability for
top-p), go down from the highest value to the one in which the limit is reached, and keep the
candidates with this value. After the last part, they are equal.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import ONE, ZERO, bits_of, in_order
from minimtp.kernels.cpu.sampling import softmax_weights

PARTS = ((21, 11), (10, 11), (0, 10))  # position and number of the bits of each part
MAX_VALUES = 1 << 11
SIGN = np.int64(1) << 31
NO_WEIGHTS = np.empty(0, np.float32)
EXCLUDED = np.float32(-np.inf)


def truncate(scores, top_k, top_p):
    if not 0 < top_k < scores.shape[-1] and top_p >= 1:
        return scores
    kept = np.array(scores, np.float32, order="C")
    _truncate(kept, min(top_k, scores.shape[1]), float(top_p))
    return kept


@compiled
def _truncate(scores, top_k, top_p):
    for row in range(scores.shape[0]):
        truncate_row(scores[row], top_k, top_p)


@compiled
def truncate_row(scores, top_k, top_p):
    """Set the scores (V,) that are not kept to -inf. A row with a NaN does not change."""
    weights = np.empty(scores.shape[0], np.float32)
    total = softmax_weights(scores, ONE, weights)
    if not np.isfinite(total):
        return
    if 0 < top_k < scores.shape[0]:
        _keep_highest(scores, NO_WEIGHTS, np.float64(top_k))
        total = softmax_weights(scores, ONE, weights)
    if top_p < 1.0:
        _keep_highest(scores, weights, top_p * total)


@compiled
def _keep_highest(scores, weights, limit):
    """Keep the highest scores until their weights reach the limit together. Each weight is 1 if
    there are none.
    """
    candidates, sums = np.arange(scores.shape[0]), np.empty(MAX_VALUES)
    count, before = candidates.shape[0], 0.0  # the weight of the scores above the candidates
    for shift, bits in PARTS:
        sums[:] = 0.0
        for v in candidates[:count]:
            sums[_value(scores[v], shift, bits)] += _weight(weights, v)
        chosen = -1
        for value in range((1 << bits) - 1, -1, -1):
            if sums[value] > 0.0:
                if chosen >= 0:
                    before += sums[chosen]
                chosen = value
                if before + sums[value] >= limit:
                    break
        kept = 0
        for v in candidates[:count]:
            if _value(scores[v], shift, bits) == chosen:
                candidates[kept] = v
                kept += 1
        count = kept
    lowest = scores[candidates[0]]
    for v in range(scores.shape[0]):
        scores[v] = scores[v] if scores[v] >= lowest else EXCLUDED
    for v in candidates[:count]:  # ties go to the lowest token
        if before >= limit:
            scores[v] = EXCLUDED
        before += _weight(weights, v)


@compiled
def _weight(weights, v):
    return 1.0 if weights.shape[0] == 0 else np.float64(weights[v])


@compiled
def _value(score, shift, bits):
    """Return these bits of a number that has the order of the scores. -0 and 0 are equal."""
    key = np.int64(in_order(bits_of(score + ZERO))) + SIGN
    return (key >> shift) & ((1 << bits) - 1)
