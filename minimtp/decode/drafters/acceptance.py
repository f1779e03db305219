"""Estimates of how likely each candidate of a tree is to be accepted. They decide the shape of a
tree. This changes only the speed.

An estimate must not depend on which tokens were sampled. Otherwise the choice to leave out a child
would depend on its token, and rejection sampling would be wrong (rules/tree.py).
"""

from minimtp.backend import numpy as np
from minimtp.decode.rules.rule import Children, Coupling
from minimtp.decode.sampling.params import softmax

# The drafter's argmax equals the target's choice more often than its probability suggests, because
# two argmaxes agree more often than two samples. Measured on trained heads, greedy and with shared
# noise: with 1.5, trees have the most accepted drafts, or almost the most. With 1, trees are too
# broad and have fewer accepted drafts than a chain of the same size. With 3, they have hardly more
# than a chain.
SHARPNESS = {Coupling.SAME_ARGMAX: 1.5, Coupling.INDEPENDENT: 1.0}

# How often a sampled child is accepted. For the first child it is the overlap of p and q:
# FIRST_SAMPLE if the drafter's distribution is flat, and nearly 1 if the drafter's maximum
# probability m is high. Each further child is accepted in FURTHER_SAMPLE of the cases in which the
# children before it were rejected. Measured on trained heads, on code and on prose, at temperatures
# 0.7 and 1: .70 at m = .16, .67 at .45, .75 at .65, .87 at .85, .98 at .97; second children .38 to
# .44, third ones .33 to .40.
FIRST_SAMPLE, FURTHER_SAMPLE = 0.65, 0.4


def estimated_acceptance(children: Children, coupling: Coupling) -> list[float]:
    """Return for each child the estimated probability that it is accepted, in descending order."""
    if coupling is Coupling.REJECTION_SAMPLING:
        return _of_samples(children)
    row = children.scores[0]
    weights = np.exp(SHARPNESS[coupling] * (row - row.max()))
    return (weights[children.tokens] / weights.sum()).tolist()


def _of_samples(children: Children) -> list[float]:
    first = FIRST_SAMPLE + (1 - FIRST_SAMPLE) * float(softmax(children.scores).max()) ** 3
    further = [
        (1 - first) * FURTHER_SAMPLE * (1 - FURTHER_SAMPLE) ** rank
        for rank in range(len(children.tokens) - 1)
    ]
    return [first, *further][: len(children.tokens)]
