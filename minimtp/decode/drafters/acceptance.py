"""How likely each candidate of a tree is to be accepted. The estimates decide the shape of a tree,
so its speed only.

An estimate must not depend on which tokens were sampled. Otherwise the choice to leave out a child
would depend on its token, and rejection sampling would be wrong (rules/tree.py).
"""

from minimtp.backend import numpy as np
from minimtp.decode.rules.rule import Children, Coupling
from minimtp.decode.sampling.params import softmax

# The drafter's argmax is the target's choice more often than its own probability says, because two
# argmaxes agree where two samples would not. Measured on trained heads, greedy and with shared
# noise: trees grown with 1.5 accept the most, or nearly. With 1 they are too broad and accept less
# than a chain of as many drafts, with 3 hardly more than a chain.
SHARPNESS = {Coupling.SAME_ARGMAX: 1.5, Coupling.INDEPENDENT: 1.0}

# How often a sampled child is accepted: the first as often as p and q overlap, which is
# FIRST_SAMPLE if the drafter's distribution is flat and nearly 1 if the drafter is sure (m, its
# maximum probability). Each further child is accepted in FURTHER_SAMPLE of the cases in which none
# before it was. Measured on trained heads, on code and on prose, at temperatures 0.7 and 1: .70 at
# m = .16, .67 at .45, .75 at .65, .87 at .85, .98 at .97; second children .38 to .44, third ones
# .33 to .40.
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
