"""Verifying a chain of sampled drafts in one compiled call.

plain/decoding/verification.py describes `verify_chain`. The rules here are `token_rule` and
`block_rule` of decode/rules/, written with these differences:

* Probabilities are quotients, of a weight exp(score - maximum), float32, and the sum of its row,
  float64. The weights of one row are kept at a time, in buffers that all rows share.
* Sums over tokens outside the draft vocabulary are what the other sums leave, and a draft that was
  not sampled needs its own probability only. So q costs V' numbers per draft, or none.
* Coin i of a round succeeds if points[i - 1] is below its probability. The last point chooses the
  token.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled, reassociate
from minimtp.kernels.cpu.math import ONE, ZERO
from minimtp.kernels.cpu.sampling import SEGMENT, pick, softmax_weights, total_of
from minimtp.kernels.plain.decoding import verification as plain
from minimtp.kernels.plain.decoding.verification import COMPILED_RULES

NO_SCORES = np.empty((0, 0), np.float32)
ALL_TOKENS = np.empty(0, np.int64)
NOT_SAMPLED = -2  # instead of a token: a draft has probability 0


def verify_chain(rule, logits, temperature, drafts, scores, tokens, rng):
    name = COMPILED_RULES.get(rule)
    points = None
    if name is not None and (scores is None or scores.dtype.char == "f"):
        points = rng.points(len(drafts) + 1)
    if points is None:
        return plain.verify_chain(rule, logits, temperature, drafts, scores, tokens, rng)
    accepted, token = RULES[name](
        logits,
        float(temperature),
        np.array(drafts, np.int64),
        NO_SCORES if scores is None else scores,
        ALL_TOKENS if tokens is None else tokens,
        points,
    )
    if token == NOT_SAMPLED:
        raise ValueError(
            f"token {drafts[accepted]} was drafted, but its declared draft distribution gives it "
            "probability 0"
        )
    return accepted, token


@compiled
def _token_rule(logits, temperature, drafts, scores, tokens, points):
    """Return (accepted, token)."""
    depth, p = drafts.shape[0], np.empty(logits.shape[1], np.float32)
    inverse = np.float32(1.0 / temperature)
    q = np.empty(scores.shape[1], np.float32)
    for j in range(depth):
        draft = drafts[j]
        p_total, q_total = _weights(logits, inverse, scores, j, p, q)
        if not np.isfinite(p_total + q_total):
            return j, -1
        draft_probability = _draft_probability(draft, tokens, q, q_total)
        if draft_probability == 0.0:
            return j, NOT_SAMPLED
        if not points[j] < np.float64(p[draft]) / p_total / draft_probability:
            return j, _residual_token(points[depth], 1.0, p, p_total, q, q_total, tokens, draft)
    p_total = softmax_weights(logits[depth], inverse, p)
    return depth, pick(points[depth], p) if np.isfinite(p_total) else -1


@compiled
def _block_rule(logits, temperature, drafts, scores, tokens, points):
    """Return (accepted, token)."""
    depth, p = drafts.shape[0], np.empty(logits.shape[1], np.float32)
    inverse = np.float32(1.0 / temperature)
    q = np.empty(scores.shape[1], np.float32)
    accepted, accepted_weight, weight = 0, 1.0, 1.0
    for i in range(depth):  # row i has p and q after i drafts
        draft = drafts[i]
        p_total, q_total = _weights(logits, inverse, scores, i, p, q)
        if not np.isfinite(p_total + q_total):
            return i, -1
        if i > 0:
            mass = _residual_mass(weight, p, p_total, q, q_total, tokens, draft)
            total = mass + (1.0 - weight)
            if points[i - 1] < (mass / total if total > 0.0 else 1.0):
                accepted, accepted_weight = i, weight
        draft_probability = _draft_probability(draft, tokens, q, q_total)
        if draft_probability == 0.0:
            return i, NOT_SAMPLED
        weight = min(1.0, weight * (np.float64(p[draft]) / p_total / draft_probability))
    if depth > 0 and points[depth - 1] < weight:
        accepted = depth
    if accepted == depth:
        p_total = softmax_weights(logits[depth], inverse, p)
        return depth, pick(points[depth], p) if np.isfinite(p_total) else -1
    p_total, q_total = _weights(logits, inverse, scores, accepted, p, q)
    token = _residual_token(
        points[depth], accepted_weight, p, p_total, q, q_total, tokens, drafts[accepted]
    )
    return accepted, token


RULES = {"token": _token_rule, "block": _block_rule}


@compiled
def _weights(logits, inverse, scores, row, p, q):
    """Write the weights of a row of the target and of the drafter. Return their sums.

    Drafts that were not sampled have no weights, and the sum 1.
    """
    q_total = 1.0
    if q.shape[0] > 0:
        q_total = softmax_weights(scores[row], ONE, q)
    return softmax_weights(logits[row], inverse, p), q_total


@compiled
def _draft_probability(draft, tokens, q, q_total):
    """Return q(draft)."""
    if q.shape[0] == 0:
        return 1.0
    index = draft
    if tokens.shape[0] > 0:
        index = np.searchsorted(tokens, draft)
        if index == tokens.shape[0] or tokens[index] != draft:
            return 0.0
    return np.float64(q[index]) / q_total


@compiled
def _residual_mass(weight, p, p_total, q, q_total, tokens, draft):
    """Return the sum of max(weight p - q, 0)."""
    scale, q_scale = weight / p_total, 1.0 / q_total
    if q.shape[0] == 0:  # q(draft) = 1
        return max(0.0, weight - scale * p[draft])
    if tokens.shape[0] == 0:
        return _positive_part(scale, p, q_scale, q)
    inside = p[tokens]
    outside = max(0.0, weight - scale * total_of(inside))
    return outside + _positive_part(scale, inside, q_scale, q)


@compiled(fastmath=reassociate)
def _positive_part(scale, p, q_scale, q):
    """Return the sum of max(scale p - q_scale q, 0)."""
    total = 0.0
    for v in range(p.shape[0]):
        total += max(0.0, scale * np.float64(p[v]) - q_scale * np.float64(q[v]))
    return total


@compiled
def _residual_token(point, weight, p, p_total, q, q_total, tokens, draft):
    """Sample from norm(max(weight p - q, 0)), or from p if no mass is left. Changes p."""
    if q.shape[0] == 0:  # q(draft) = 1
        p[draft] = ZERO
        token = pick(point, p)
        return token if token >= 0 else draft
    if tokens.shape[0] > 0:  # once per round, so this need not be fast
        some, q = q, np.zeros_like(p)
        q[tokens] = some
    scale, q_scale = weight / p_total, 1.0 / q_total
    segments = (p.shape[0] + SEGMENT - 1) // SEGMENT
    sums = np.empty(segments)
    for segment in range(segments):
        here = slice(segment * SEGMENT, (segment + 1) * SEGMENT)
        sums[segment] = _positive_part(scale, p[here], q_scale, q[here])
    rest, last = point * sums.sum(), -1
    for segment in range(segments):
        if rest >= sums[segment] and segment + 1 < segments:
            rest -= sums[segment]
            continue
        for v in range(segment * SEGMENT, min(p.shape[0], (segment + 1) * SEGMENT)):
            share = scale * np.float64(p[v]) - q_scale * np.float64(q[v])
            if share > 0.0:
                if rest < share:
                    return v
                rest, last = rest - share, v
        # The sum of the segment was rounded: go on with the first token of the next one.
        rest = 0.0
    return last if last >= 0 else pick(point, p)
