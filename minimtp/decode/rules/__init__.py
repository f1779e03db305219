"""Verification rules: which drafts are accepted, and which token follows them.

One forward pass of the target over K draft tokens gives K + 1 next-token distributions p_0 .. p_K.
A verification rule uses them to decide how many drafts to accept, and samples the token that
follows the last accepted one. A rule is *exact* if its output has the same distribution as sampling
from the target alone, for any drafter.

    rule          a draft d, sampled from q, is accepted if ...    guarantee
    shared-noise  it is the target's choice with the same noise    the text of plain decoding
    token         a coin with probability min(1, p / q) succeeds   the target's distribution
    block         a coin for the whole chain up to d succeeds      the target's distribution
    match         it is the target's own sample                    the text of plain decoding

"The text of plain decoding" is the text that the same seed gives without drafts; with `match`, only
if the drafter uses no random numbers. At temperature 0 all four are the same rule, `Greedy`: accept
drafts that equal the target's argmax.

    rule.py                             the interface of a rule
    registry.py                         rules by the names that users give
    tree.py                             a tree of drafts
    greedy.py, shared_noise.py,
    match.py, matching.py               accept drafts that equal the target's own choices
    token.py, block.py, rejection.py    accept drafts with probabilities that depend on p and q
    residual.py                         the formulas of rejection sampling
"""
