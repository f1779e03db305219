r"""Exercises of lesson 10. Fill in the bodies, then run:

pytest --mine tests/bench/test_interleaved.py \
    tests/decode/drafters/test_ngram.py \
    tests/decode/policy/test_estimates.py
"""

import itertools  # noqa: F401  (for your answers)
import statistics  # noqa: F401
from collections.abc import Sequence
from dataclasses import dataclass, field

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.decode.policy.estimates import GUESS_WEIGHT  # noqa: F401
from minimtp.decode.rules.rule import Rule
from minimtp.model.config import MAX_DRAFTS


@dataclass
class Speed:
    """The measured speed of one variant."""

    tokens_per_second: float  # median over the repeats
    slowest: float
    fastest: float
    tokens_per_step: float
    acceptance: list[float]  # accepted / drafted, by depth
    rates: list[list[float]] = field(repr=False)  # tokens per second, [repeat][prompt]
    texts: list[list[int]] = field(repr=False)  # one per prompt, including the prompt
    steps: int = 0  # forward passes after prefill, over all prompts once
    passes_of_length: list[int] = field(default_factory=list)  # steps with 0, 1, ... rows
    drafting_seconds_per_step: float = 0.0  # median of the runs
    drafted: list[float] = field(default_factory=list)  # share of the steps that draft, by depth

    @property
    def drafted_per_step(self) -> float:
        return sum(self.drafted)

    def speedup_over(self, other: "Speed") -> float:
        """Return the median of the ratios of all pairs: one run of each variant, on the same prompt
        in the same repeat.

        A text that ended with its first token has no speed, and its pair is left out.
        """
        raise NotImplementedError(
            "lesson 10: take the median of the ratios of all pairs; which two runs are a pair?"
        )


class NgramDrafter:
    """Drafts what followed the latest earlier occurrence of the text's longest repeated suffix.

    min_length, max_length: minimum number of tokens that must be repeated, and maximum number that
    is compared. A longer repetition allows a longer draft: after a repetition of n tokens it has at
    most 2 n tokens.
    """

    reads_hidden = False
    stops_early = False
    min_confidence = 0.0

    def __init__(
        self, max_depth: int = MAX_DRAFTS, max_length: int = 12, min_length: int = 3
    ) -> None:
        self.max_depth = max_depth
        self.max_length, self.min_length = max_length, min_length
        self.reset(0)

    def clone(self) -> "NgramDrafter":
        return NgramDrafter(self.max_depth, self.max_length, self.min_length)

    def reset(self, first_token: int) -> None:
        self._text = chr(first_token)  # one character per token, because strings search fast
        self._seen: set[str] = set()  # the n-grams of `min_length` tokens that end before _known
        self._known = self.min_length

    def commit(self, hidden: Array | None, tokens: np.ndarray) -> None:
        self._text += "".join(map(chr, tokens.tolist()))

    def draft(self, depth: int, rule: Rule) -> tuple[list[int], None]:
        raise NotImplementedError(
            "lesson 10: find the longest suffix that occurs earlier, and return what follows it"
        )


def survival(
    ended: Sequence[float], censored: Sequence[float], max_depth: int, guess: float
) -> list[float]:
    """Return the shares of rounds that reach depths 1 .. max_depth: the Kaplan-Meier estimator.

    ended: number of rounds that ended at depth 0, 1, ...; at least `max_depth` numbers. censored:
    how many of them ended because they did not ask for more drafts. guess: the share of rounds that
    continue from depth 0, before any observation. From a later depth it is the estimate for the
    depth before. It counts as GUESS_WEIGHT rounds.
    """
    raise NotImplementedError(
        "lesson 10: what fraction of the rounds that could continue from this depth did continue?"
    )
