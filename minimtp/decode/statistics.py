"""What happened while a text was written: its rounds one by one, and the counts and seconds of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from minimtp.decode.rules.trees import Tree


class DraftPlan(NamedTuple):
    """How the next rounds are to draft."""

    drafts: int  # at most so many behind one another
    rounds: int = 1  # in each of so many rounds
    nodes: int = 0  # at most so many in all, as a tree; 0: a chain
    min_acceptance: float = 0.0  # a node of a tree that is less likely to stand does not pay


class Round(NamedTuple):
    """What one pass of the target brought."""

    position: int  # of the first token emitted
    drafts: list[
        int
    ]  # what was proposed for that position and the following ones; of a tree, one path
    accepted: int  # how many of the drafts stand
    tokens: list[
        int
    ]  # emitted: the accepted drafts and, unless a drafted stop token ended the text, one token more
    tree: Tree | None = None  # what was proposed, where that was a tree


COUNTS = ("drafts_of_length", "drafts_accepted", "passes_of_length")


@dataclass
class Statistics:
    """Counts and seconds of one generation. The prompt's own pass is no step, though it emits the first token."""

    prompt_tokens: int = 0
    emitted: int = 0
    steps: int = 0  # passes of the target after the prompt's
    seconds_prompt: float = 0.0
    seconds_draft: float = 0.0  # in the drafter, its bookkeeping included
    seconds_verify: float = 0.0  # in the target and the rule
    drafts_of_length: list[int] = field(default_factory=list)  # steps that drafted exactly i tokens
    drafts_accepted: list[int] = field(default_factory=list)  # steps that accepted exactly i tokens
    passes_of_length: list[int] = field(
        default_factory=list
    )  # steps whose pass was over exactly i tokens

    def copy(self) -> "Statistics":
        return replace(self, **{name: getattr(self, name).copy() for name in COUNTS})

    def since(self, earlier: "Statistics") -> "Statistics":
        """What was added to an earlier copy."""
        return Statistics(
            0, self.emitted - earlier.emitted, self.steps - earlier.steps, 0.0,
            self.seconds_draft - earlier.seconds_draft, self.seconds_verify - earlier.seconds_verify,
            *([new - old for new, old in zip(getattr(self, name), getattr(earlier, name), strict=True)] for name in COUNTS),
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Tokens in the passes after the prompt's, drafts that were rejected included."""
        return sum(length * count for length, count in enumerate(self.passes_of_length))

    @property
    def drafted(self) -> list[int]:
        """By depth: how often a first, second, ... token was drafted."""
        return _at_least(self.drafts_of_length)

    @property
    def accepted(self) -> list[int]:
        """By depth: how often the first, second, ... drafted token was accepted."""
        return _at_least(self.drafts_accepted)

    @property
    def tokens_per_step(self) -> float:
        """Tokens emitted by a verification step, 1 for plain decoding; 1 as well where there was no step."""
        return (self.emitted - 1) / self.steps if self.steps else 1.0

    @property
    def tokens_per_second(self) -> float:
        """Speed after the prompt, the reader's own time excluded; 0 where there was no step."""
        seconds = self.seconds_draft + self.seconds_verify
        return (self.emitted - 1) / seconds if self.steps and seconds > 0 else 0.0


def _at_least(exactly: Sequence[int]) -> list[int]:
    return [sum(exactly[depth:]) for depth in range(1, len(exactly))]
