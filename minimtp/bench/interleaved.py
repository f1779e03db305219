"""Compare the decoding speed of several variants reliably, although the machine's speed drifts.

The speed of a shared machine drifts. If one variant is measured in a quiet minute and the next in a
busy one, the two figures cannot be compared. The variants therefore alternate prompt by prompt in
one process. One run is one generated sequence. A speed is the median over the repeats of the whole
set of prompts, given with its range. A speed-up is the median of the ratios of all pairs of runs
with the same prompt in the same repeat. Prefill is not counted, because it is the same for every
variant.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.policy.plan import DraftPolicy
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.statistics import Statistics
from minimtp.decode.target import Target


@dataclass
class Variant:
    """A way to decode: a target, and how it drafts.

    draft_depth: maximum number of drafts per round. min_confidence: stop drafting below it. rule:
    the verification rule. policy: makes the draft policy that one measurement uses; None drafts
    `draft_depth` tokens every time. tree: number of drafts in a draft tree; 0 drafts a chain.
    """

    name: str
    target: Target
    drafter: Drafter | None = None
    draft_depth: int = 0
    min_confidence: float = 0.0
    rule: str = "shared-noise"
    policy: Callable[[], DraftPolicy] | None = None
    tree: int = 0


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
        mine = itertools.chain.from_iterable(self.rates)
        others = itertools.chain.from_iterable(other.rates)
        ratios = [a / b for a, b in zip(mine, others, strict=True) if a > 0 and b > 0]
        return statistics.median(ratios) if ratios else math.nan


@dataclass
class Run:
    """One generated sequence. Prefill and the token that it produces are not timed."""

    tokens: list[int]  # prompt included
    emitted: int  # tokens after the first
    seconds: float
    statistics: Statistics


def measure_interleaved(
    variants: Sequence[Variant],
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int,
    sampling: SamplingParams,
    repeats: int = 3,
    seed: int = 0,
    stop_tokens: Sequence[int] = (),
    progress: Callable[[int], object] = lambda runs: None,
) -> dict[str, Speed]:
    """Let the variants continue the same prompts, alternating, and return their speeds by name.

    Each run generates `max_new_tokens` tokens, or fills the context, or ends at one of
    `stop_tokens`. A warm-up run of each variant is not counted. `progress` receives the number of
    finished runs since its last call.
    """
    policies = {v.name: v.policy() if v.policy else None for v in variants}
    results = {v.name: _Results() for v in variants}
    for variant in variants:
        run_once(variant, prompts[0], max_new_tokens, sampling, seed, policies[variant.name])
    for _ in range(repeats):
        for result in results.values():
            result.begin_repeat()
        for index, prompt in enumerate(prompts):
            for variant in variants:
                policy = policies[variant.name]
                run = run_once(
                    variant, prompt, max_new_tokens, sampling, seed + index, policy, stop_tokens
                )
                results[variant.name].add(run)
                progress(1)
    return {name: result.speed() for name, result in results.items()}


def tune(
    variant: Variant,
    depths: Sequence[int],
    confidences: Sequence[float],
    prompts: Sequence[np.ndarray],
    max_new_tokens: int,
    sampling: SamplingParams,
) -> list[Speed]:
    """Set the variant's draft depth and minimum confidence to the fastest pair on these prompts.
    Return the speeds of all pairs.
    """
    settings = list(itertools.product(depths, confidences))
    variants = [
        replace(variant, name=str(i), draft_depth=depth, min_confidence=confidence)
        for i, (depth, confidence) in enumerate(settings)
    ]
    speeds = measure_interleaved(
        variants, prompts, max_new_tokens=max_new_tokens, sampling=sampling, repeats=1
    )
    fastest = max(speeds, key=lambda name: speeds[name].tokens_per_second)
    variant.draft_depth, variant.min_confidence = settings[int(fastest)]
    return list(speeds.values())


def run_once(
    variant: Variant,
    prompt: np.ndarray,
    max_new_tokens: int,
    sampling: SamplingParams,
    seed: int,
    policy: DraftPolicy | None = None,
    stop_tokens: Sequence[int] = (),
) -> Run:
    """Generate one sequence and time it from the second token on."""
    if variant.drafter:
        variant.drafter.min_confidence = variant.min_confidence
    generation = start_generation(
        variant.target,
        variant.drafter,
        prompt,
        GenerationOptions(
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=seed,
            draft_depth=variant.draft_depth,
            rule=variant.rule,
            tree=variant.tree,
            stop_tokens=stop_tokens,
        ),
        policy,
    )
    next(generation)
    started = perf_counter()
    for _ in generation:
        pass
    seconds = perf_counter() - started
    found = generation.statistics
    return Run(generation.tokens, found.emitted - 1, seconds, found)


@dataclass
class _Results:
    """The runs of one variant so far. Texts and counts come from the first repeat."""

    rates: list[list[float]] = field(default_factory=list)
    totals: list[list[float]] = field(default_factory=list)  # [tokens, seconds] by repeat
    drafting: list[float] = field(default_factory=list)  # seconds per step, by run
    texts: list[list[int]] = field(default_factory=list)
    emitted: int = 0
    steps: int = 0
    lengths: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def begin_repeat(self) -> None:
        self.rates.append([])
        self.totals.append([0, 0.0])

    def add(self, run: Run) -> None:
        self.rates[-1].append(run.emitted / run.seconds)
        self.totals[-1][0] += run.emitted
        self.totals[-1][1] += run.seconds
        self.drafting.append(run.statistics.seconds_draft / max(1, run.statistics.steps))
        if len(self.totals) == 1:
            self.texts.append(run.tokens)
            self._count(run)

    def _count(self, run: Run) -> None:
        found = run.statistics
        self.emitted += run.emitted
        self.steps += found.steps
        _add_counts(self.lengths, found.passes_of_length)
        _add_counts(self.drafted, found.drafted)
        _add_counts(self.accepted, found.accepted)

    def speed(self) -> Speed:
        rates = [tokens / seconds for tokens, seconds in self.totals]
        pairs = zip(self.accepted, self.drafted, strict=True)
        return Speed(
            tokens_per_second=statistics.median(rates),
            slowest=min(rates),
            fastest=max(rates),
            tokens_per_step=self.emitted / self.steps if self.steps else math.nan,
            acceptance=[accepted / drafted if drafted else math.nan for accepted, drafted in pairs],
            rates=self.rates,
            texts=self.texts,
            steps=self.steps,
            passes_of_length=self.lengths,
            drafting_seconds_per_step=statistics.median(self.drafting),
            drafted=[count / max(1, self.steps) for count in self.drafted],
        )


def _add_counts(total: list[int], new: Sequence[int]) -> None:
    """Add counts by index, extending `total` if `new` is longer."""
    total.extend([0] * (len(new) - len(total)))
    for index, count in enumerate(new):
        total[index] += count
