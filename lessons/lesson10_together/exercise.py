r"""Exercises of lesson 10. Fill in the bodies, then run:

pytest --mine tests/bench/test_interleaved.py \
    tests/decode/drafters/test_ngram.py \
    tests/decode/policy/test_estimates.py
"""

import itertools  # noqa: F401  (for your answers)
import statistics  # noqa: F401
from collections.abc import Sequence
from dataclasses import dataclass, field

from minimtp.backend import numpy as np
from minimtp.decode.policy.estimates import GUESS_WEIGHT  # noqa: F401
from minimtp.decode.rules.verify import Rule


@dataclass
class Speed:
    """The measured speed of one variant."""

    tokens_per_second: float  # median over the repeats
    slowest: float
    fastest: float
    tokens_per_step: float
    acceptance: list[float]  # accepted / drafted, by depth
    rates: list[list[float]] = field(repr=False)  # tokens per second, [repeat][prompt]
    texts: list[list[int]] = field(repr=False)  # one per prompt, prompt included
    steps: int = 0  # forward passes after prefill, over all prompts once
    passes_of_length: list[int] = field(default_factory=list)  # steps with 0, 1, ... rows
    drafting_seconds_per_step: float = 0.0  # median of the runs

    def speedup_over(self, other: "Speed") -> float:
        """Median over prompts and repeats of the ratio of two neighbouring runs."""
        raise NotImplementedError(
            "lesson 10: which two runs are neighbours? which statistic of their ratios is robust?"
        )


class NgramDrafter:
    """Proposes what followed the latest earlier occurrence of the longest repeated end of the text.

    longest, shortest: how many tokens must be repeated, at most tried and at least needed. A token more of evidence is one
    more token drafted: after a repetition of n tokens at most 2 n are proposed.
    """

    reads_hidden, stops_early, min_confidence = False, False, 0.0

    def __init__(self, max_depth: int = 15, longest: int = 12, shortest: int = 3) -> None:
        self.max_depth = max_depth
        self.longest, self.shortest = longest, shortest
        self.reset(0)

    def clone(self) -> "NgramDrafter":
        return NgramDrafter(self.max_depth, self.longest, self.shortest)

    def reset(self, first_token: int) -> None:
        self._text = chr(
            first_token
        )  # a character for each token: searching is then what strings are best at
        self._said: set[str] = set()  # every stretch of `shortest` tokens that ends before _known
        self._known = self.shortest

    def commit(self, hidden: object | None, tokens: np.ndarray) -> None:
        self._text += "".join(map(chr, tokens.tolist()))

    def draft(self, depth: int, rule: Rule) -> tuple[list[int], None]:
        raise NotImplementedError(
            "lesson 10: find the latest earlier occurrence of the longest suffix, and return what follows"
        )

    def _longest_repeated_end(self) -> tuple[int, int]:
        """(how many tokens, at most `longest`; where they begin at the latest earlier place) of an end that was said before."""
        text, known, least_missing = (
            self._text,
            self.shortest,
            min(self.longest, len(self._text) - 1) + 1,
        )
        place = text.rfind(text[-known:], 0, -1)
        while least_missing - known > 1:
            tried = (known + least_missing) // 2
            found = text.rfind(text[-tried:], 0, -1)
            if found < 0:
                least_missing = tried
            else:
                known, place = tried, found
        return known, place


def survival(
    ended: Sequence[float], whole: Sequence[float], most: int, guess: float
) -> list[float]:
    """The shares of rounds that reach depth 1 .. most.

    ended: rounds by the depth they reached; whole: those among them that were not asked to go further. guess: the share that
    goes on from one depth to the next before anything was observed.
    """
    raise NotImplementedError(
        "lesson 10: what fraction of the rounds that could continue from this depth did continue?"
    )
