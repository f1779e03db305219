"""Drafters for the targets of table_models.py. They check what the decoder commits to them."""

import numpy as np

from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.drafters.tree_growth import grow
from tests.helpers.table_models import greedy_text


class CheckingDrafter(FunctionDrafter):
    """Checks that each hidden row is the position and the token that it should be."""

    reads_hidden = True

    def commit(self, hidden, tokens):
        rows = range(len(self.tokens) - 1, len(self.tokens) - 1 + len(tokens))
        super().commit(hidden, tokens)
        assert hidden.tolist() == [[row, self.tokens[row]] for row in rows]


class TableTreeDrafter(CheckingDrafter):
    """Grows trees from the logits of another table."""

    def __init__(self, other, depth=4):
        super().__init__(None, depth)
        self.other = other

    def draft_tree(self, nodes, depth, rule, min_acceptance):
        def follow(node, parent, path):
            return self.other.logits([*self.tokens, *path])[None]

        return grow(self.tokens[-1], follow, rule, nodes, depth, min_acceptance)


def guessing_drafter(target, seed=0, right=0.6, depth=4):
    """Drafts the greedy continuation with random errors, and sometimes fewer tokens than
    requested.
    """
    random = np.random.default_rng(seed)

    def function(tokens, depth, rule):
        drafts = [
            token if random.random() < right else int(random.integers(target.vocabulary_size))
            for token in greedy_text(target, tokens, depth)
        ]
        if random.random() < 0.2:
            drafts = drafts[: random.integers(depth + 1)]
        return drafts, None

    return CheckingDrafter(function, depth)


def sampling_drafter(other, depth=3):
    """Samples its drafts from another table, as a small model does."""

    def function(tokens, depth, rule):
        tokens, scores = list(tokens), []
        for index in range(depth):
            sampled, score = rule.sample(other.logits(tokens)[None], index)
            tokens.append(int(sampled[0]))
            scores.append(score)
        drafts = tokens[len(tokens) - depth :]
        return drafts, None if not scores or scores[0] is None else np.concatenate(scores)

    return CheckingDrafter(function, depth)


def constant_drafter(*drafts, depth=None):
    """Drafts the same tokens in every round."""
    return CheckingDrafter(
        lambda tokens, depth, rule: (list(drafts[:depth]), None), depth or len(drafts)
    )
