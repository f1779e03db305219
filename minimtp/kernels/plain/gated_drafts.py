"""Whole drafts by a gated head in plain array code, for any device's `gated_step`;
`plain.gated_step` says what a step is.
"""

from collections.abc import Callable
from dataclasses import dataclass

from minimtp.backend import array_module, numpy, to_numpy


@dataclass(frozen=True, slots=True)
class TokenParts:
    """See `plain.prepare_token_parts`. The last three are functions of the kernels."""

    table: object  # (V, D)
    norm: object  # (D,)
    from_token: object  # (2D, D)
    epsilon: float
    embedding: Callable
    rms_norm: Callable
    linear: Callable

    def __getitem__(self, tokens):
        """tokens: integers (R,), or a slice of them -> (R, 2D)."""
        if isinstance(tokens, slice):
            tokens = array_module(self.norm).arange(tokens.start, tokens.stop)
        normed, _ = self.rms_norm(self.embedding(self.table, tokens), self.norm, self.epsilon)
        return self.linear(normed, self.from_token)


def sampled_draft(gated_step, state, token, token_parts, noise, temperature, min_confidence, step):
    """See `plain.gated_sampled_draft`."""
    xp, drafts, confidence = array_module(state), [], 1.0
    for row in xp.asarray(noise):
        logits, largest_probability = gated_step(state, token_parts[token : token + 1], step)
        confidence *= float(largest_probability)
        if confidence < min_confidence:
            break
        token = int((logits[0] / temperature + row).argmax())
        drafts.append(token)
    return numpy.array(drafts, numpy.int64)


def likeliest_tree(
    gated_step,
    state,
    token,
    token_parts,
    sizes,
    min_acceptance,
    sharpness,
    step,
    noise,
    temperature,
):
    """See `plain.gated_tree`."""
    nodes, depth, width = sizes
    tokens, parents, depths, states = [token], [-1], [0], [state]
    follow, chance = (
        [],
        1.0,
    )  # for each node the (chance, token) that may follow it, the likeliest last
    while len(tokens) <= nodes:
        follow.append([])
        if depths[-1] < depth:
            states[-1] = states[-1].copy()
            logits, _ = gated_step(states[-1], token_parts[tokens[-1] : tokens[-1] + 1], step)
            scores = to_numpy(logits)[0] / temperature
            if noise is not None:
                scores = scores + noise[depths[-1]]
            weights = numpy.exp(sharpness * (scores - scores.max()))
            likeliest = numpy.argsort(-scores, kind="stable")[:width]
            follow[-1] = [
                (chance * float(weights[i] / weights.sum()), int(i)) for i in likeliest[::-1]
            ]
        best = max(
            range(len(follow)), key=lambda node: follow[node][-1][0] if follow[node] else -1.0
        )
        if not follow[best] or not follow[best][-1][0] >= min_acceptance:
            break
        chance, drafted = follow[best].pop()
        tokens.append(drafted)
        parents.append(best)
        depths.append(depths[best] + 1)
        states.append(states[best])
    return numpy.array(tokens, numpy.int64), numpy.array(parents, numpy.int64)
