"""Counts and times of one generation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import sub

from minimtp.decode.round import Round


@dataclass
class Statistics:
    """Counts and seconds of one generation.

    A step is a forward pass of the target after prefill. Prefill is not a step, although it
    produces the first token. The three lists count steps by length: entry i is the number of steps
    that drafted, accepted or fed exactly i tokens. sources: the same for the steps with drafts of
    each source, if the drafter has several.
    """

    prompt_tokens: int = 0
    emitted: int = 0  # new tokens
    steps: int = 0
    seconds_prompt: float = 0.0
    seconds_draft: float = 0.0  # seconds in the drafter, including its bookkeeping
    seconds_verify: float = 0.0  # seconds in the target and the rule
    drafts_of_length: list[int] = field(default_factory=list)
    drafts_accepted: list[int] = field(default_factory=list)
    passes_of_length: list[int] = field(default_factory=list)
    sources: list["Statistics"] = field(default_factory=list)

    @classmethod
    def of_prompt(
        cls, prompt_tokens: int, draft_depth: int, tree_nodes: int, sources: int = 0
    ) -> "Statistics":
        """Return the statistics of a generation before its first pass.

        sources: number of sources of the drafter (drafters/combined.py); 0 if it has only one.
        """
        return cls(
            prompt_tokens=prompt_tokens,
            sources=[cls.of_prompt(0, draft_depth, 0) for _ in range(sources)],
            drafts_of_length=[0] * (draft_depth + 1),
            drafts_accepted=[0] * (draft_depth + 1),
            passes_of_length=[0] * (max(draft_depth, tree_nodes) + 2),
        )

    def add(
        self, round_: Round, seconds_draft: float, seconds_verify: float, source: int | None = None
    ) -> None:
        """Count one round after prefill. source: of its drafts, if the drafter has several."""
        if source is not None:
            self.sources[source].add(round_, seconds_draft, seconds_verify)
        drafted = len(round_.drafts)
        self.emitted += len(round_.tokens)
        self.steps += 1
        self.drafts_of_length[drafted] += 1
        self.drafts_accepted[round_.accepted] += 1
        self.passes_of_length[1 + (drafted if round_.tree is None else len(round_.tree))] += 1
        self.seconds_draft += seconds_draft
        self.seconds_verify += seconds_verify

    def copy(self) -> "Statistics":
        return Statistics(
            self.prompt_tokens,
            self.emitted,
            self.steps,
            self.seconds_prompt,
            self.seconds_draft,
            self.seconds_verify,
            self.drafts_of_length.copy(),
            self.drafts_accepted.copy(),
            self.passes_of_length.copy(),
            [source.copy() for source in self.sources],
        )

    def since(self, earlier: "Statistics") -> "Statistics":
        """Return the counts and times added since `earlier`, a copy made before."""
        return Statistics(
            emitted=self.emitted - earlier.emitted,
            steps=self.steps - earlier.steps,
            seconds_draft=self.seconds_draft - earlier.seconds_draft,
            seconds_verify=self.seconds_verify - earlier.seconds_verify,
            drafts_of_length=list(map(sub, self.drafts_of_length, earlier.drafts_of_length)),
            drafts_accepted=list(map(sub, self.drafts_accepted, earlier.drafts_accepted)),
            passes_of_length=list(map(sub, self.passes_of_length, earlier.passes_of_length)),
            sources=[
                new.since(old) for new, old in zip(self.sources, earlier.sources, strict=True)
            ],
        )

    @property
    def rows(self) -> int:
        """Tokens in all forward passes after prefill, including rejected drafts."""
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
        """New tokens per step: 1.0 for plain decoding, and if there were no steps."""
        return (self.emitted - 1) / self.steps if self.steps else 1.0

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed after prefill, excluding the caller's time; 0.0 if there were no steps."""
        seconds = self.seconds_draft + self.seconds_verify
        return (self.emitted - 1) / seconds if self.steps and seconds > 0 else 0.0


def _at_least(exactly: Sequence[int]) -> list[int]:
    return [sum(exactly[depth:]) for depth in range(1, len(exactly))]
