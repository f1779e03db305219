"""Matching: accept drafts as long as they equal the target's own choices.

Only the target's own choices are ever emitted, so any drafts are safe, even drafts that were picked
from several or dropped halfway. Whether the target chooses by argmax (greedy.py), with noise that
the drafter shares (shared_noise.py) or by sampling (match.py) decides how often drafts are
accepted.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import TypeVar

from minimtp.backend import numpy as np
from minimtp.decode.rules.rule import Children
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.params import NOT_FINITE
from minimtp.decode.sampling.random_source import RandomSource
from minimtp.errors import UserError

Accepted = TypeVar("Accepted", int, list[int])  # their number, or the path in a tree


def matching_rule(choose: Callable[[int], int], drafts: Sequence[int]) -> tuple[int, int]:
    """Accept drafts while they equal the target's own choices, then emit the first that differs.

    Rule: y_j = choose(j) is the target's choice after j drafts, a sample from p_j. Continue while
    y_j = d_{j+1}. Emit every y_j.
    Source: Stern et al. 2018 (1811.03115) with the argmax. llama.cpp verifies with sampled choices.
    Guarantee: the output is the output of plain decoding. `choose` is called once per emitted
    token, in order, so random numbers are consumed exactly as in plain decoding. Drafts sampled
    independently from q are accepted with probability sum p q.

    Returns (accepted, token).
    """
    for j, draft in enumerate(drafts):
        choice = choose(j)
        if choice != draft:
            return j, choice
    return len(drafts), choose(len(drafts))


def matching_path(choose: Callable[[int], int], tree: Tree) -> tuple[list[int], int]:
    """Descend while the target's own choice is a child, then emit the first that is not.

    Rule: y = choose(row) is the target's choice after `row`, a sample from its p. Go to the child
    y, or emit y.
    Source: the greedy trees of Medusa (2401.10774) and SpecInfer (2305.09781), with the argmax.
    Guarantee: the same as for `matching_rule`. No exact rule accepts more if the children were not
    sampled: a path is accepted with the probability that the target gives to it.

    Returns (path, token).
    """
    path, row = [], 0
    while True:
        token = choose(row)
        row = next((child for child in tree.children[row] if tree.tokens[child] == token), None)
        if row is None:
            return path, token
        path.append(row)


def sample_token(rng: RandomSource, scores: np.ndarray) -> int:
    """Sample a token from the softmax of scores (1, V), -1 if the token's score is not finite."""
    token = int(rng.sample(scores)[0])
    return token if isfinite(scores[0, token]) else -1


def require_finite(accepted: Accepted, token: int) -> tuple[Accepted, int]:
    """Return (accepted, token).

    Raises UserError if the token is -1, which stands for a logit that is not finite.
    """
    if token < 0:
        raise UserError(NOT_FINITE)
    return accepted, token


def highest_scores(scores: np.ndarray, width: int) -> Children:
    """Return the tokens with the highest scores (1, V) as children, without scores of -inf.

    Ties go to the lowest id.
    """
    row = scores[0]
    order = np.argsort(-row, kind="stable")[:width]
    return Children([token for token in order.tolist() if row[token] > -np.inf], scores)
