"""Whether a text runs in a loop, as greedy texts of small models often do.

A text that is a loop is of no use. One that has come into a loop is ended there, and what came
before can be used. There are two windows: the short one finds short loops soon, and the long one
finds loops of up to 48 tokens.
"""

from collections.abc import Sequence

WINDOWS = 32, 96  # the last tokens of an answer
EVERY = 8  # tokens between two looks


def is_repetitive(tokens: Sequence[int], share: float = 0.35) -> bool:
    """Return whether a text runs in a loop: less than this share of its 4-grams are distinct."""
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return len(set(grams)) < share * len(grams)


def ends_in_a_loop(answer: Sequence[int]) -> bool:
    """Return whether fewer than half of the last 4-grams of an answer are distinct. It looks after
    every eighth token only, which is cheaper.
    """
    if len(answer) % EVERY:
        return False
    return any(len(answer) >= n and is_repetitive(answer[-n:], 0.5) for n in WINDOWS)
