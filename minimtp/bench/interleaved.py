"""How fast several decoders are, measured so that the comparison can be trusted.

A shared machine drifts: one contestant measured in a quiet minute and the next in a busy one say nothing about each other.
So the contestants take turns, prompt by prompt, in one process; each turn is one text; a figure is the median over the
repeats of the whole set of prompts, given with its range, and a speed-up is the median of ratios of turns that lay side by
side. The prompt's own pass is not counted: it is the same for all.

Every contestant's greedy text is compared with the text of its own plain decoding, token by token. With compiled kernels they
must be equal. BLAS rounds a product of one row differently from a product of eight, so on the plain kernels a text may
part from the plain one where the two best logits are closer than rounding can tell; such a place is counted, anything else
is an error.
"""

import gc
import itertools
import math
import statistics
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from minimtp.backend import empty_gpu_pool, gpu_pool_bytes, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.generation import DraftPolicy
from minimtp.decode.options import generate
from minimtp.decode.sampling import GREEDY, SamplingParams
from minimtp.decode.target import Target

TIE = 1e-4  # relative to the largest logit: about a hundred float32 roundings of a sum of a few hundred products


@dataclass
class Variant:
    """A decoder: a target, and how it drafts: at most `draft_depth` tokens, fewer below `least_confidence`.

    rule: how sampled drafts are verified. policy: makes, for a whole race, who chooses among the draft lengths. tree: so many
    drafts a round as a tree, 0 for a chain.
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
    """What was measured of one contestant."""

    tokens_per_second: float  # median over the repeats
    slowest: float
    fastest: float
    tokens_per_step: float
    acceptance: list[float]  # by depth: accepted / drafted
    turns: list[list[float]] = field(repr=False)  # tokens per second, [repeat][prompt]
    texts: list[list[int]] = field(repr=False)  # one a prompt, prompt included
    steps: int = 0  # passes after the prompt's, over all prompts once
    passes_of_length: list[int] = field(
        default_factory=list
    )  # of those, how many were over 0, 1, ... tokens
    seconds_of_drafting: float = 0.0  # a step, the median of the turns

    def speedup_over(self, other: "Speed") -> float:
        """Median over prompts and repeats of the ratio of two turns side by side."""
        mine, others = (itertools.chain.from_iterable(turns) for turns in (self.turns, other.turns))
        return statistics.median(a / b for a, b in zip(mine, others, strict=True))


def measure_interleaved(
    variants: Sequence[Variant],
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int,
    sampling: SamplingParams,
    repeats: int = 3,
    seed: int = 0,
    progress: Callable[[int], object] = lambda turns: None,
) -> dict[str, Speed]:
    """Let the contestants continue the same prompts in turn, and measure them.

    Texts are continued to `max_new_tokens` tokens or the context's end; no stop tokens. A first round over one prompt warms up
    and is not counted. `progress` is called with the number of turns done since the last call.
    """
    policies = {c.name: c.policy() if c.policy else None for c in variants}
    for c in variants:
        _turn(c, prompts[0], max_new_tokens, sampling, seed, policies[c.name])
    turns: dict[str, list[list[float]]] = {c.name: [] for c in variants}
    texts: dict[str, list[list[int]]] = {c.name: [] for c in variants}
    counts = {c.name: _Counts() for c in variants}
    seconds, drafting = {c.name: [] for c in variants}, {c.name: [] for c in variants}
    for repeat in range(repeats):
        for c in variants:
            turns[c.name].append([])
            seconds[c.name].append([0, 0.0])
        for index, prompt in enumerate(prompts):
            for c in variants:
                text, emitted, elapsed, counted = _turn(
                    c, prompt, max_new_tokens, sampling, seed + index, policies[c.name]
                )
                turns[c.name][repeat].append(emitted / elapsed)
                seconds[c.name][repeat][0] += emitted
                seconds[c.name][repeat][1] += elapsed
                drafting[c.name].append(counted.seconds_draft / max(1, counted.steps))
                if repeat == 0:
                    texts[c.name].append(text)
                    counts[c.name].add(counted)
                progress(1)
    results = {}
    for c in variants:
        rates = [tokens / elapsed for tokens, elapsed in seconds[c.name]]
        results[c.name] = Speed(
            statistics.median(rates), min(rates), max(rates), counts[c.name].tokens_per_step(),
            counts[c.name].acceptance(), turns[c.name], texts[c.name],
            counts[c.name].steps, counts[c.name].lengths, statistics.median(drafting[c.name]),
        )  # fmt: skip
    return results


def tune(
    variant: Variant,
    depths: Sequence[int],
    confidences: Sequence[float],
    prompts: Sequence[np.ndarray],
    max_new_tokens: int,
    sampling: SamplingParams,
) -> None:
    """Give the contestant the draft depth and the least confidence with which it is fastest on these prompts."""
    settings = list(itertools.product(depths, confidences))
    variants = [
        replace(variant, name=str(i), draft_depth=d, min_confidence=c)
        for i, (d, c) in enumerate(settings)
    ]
    speeds = measure_interleaved(
        variants, prompts, max_new_tokens=max_new_tokens, sampling=sampling, repeats=1
    )
    fastest = max(speeds, key=lambda name: speeds[name].tokens_per_second)
    variant.draft_depth, variant.min_confidence = settings[int(fastest)]


@dataclass
class Agreement:
    """Greedy texts against the target's own plain decoding."""

    texts: int = 0
    equal: int = 0
    ties: int = 0  # parted where the two best logits are equal up to rounding
    wrong: list[str] = field(default_factory=list)  # one sentence a text that parted anywhere else


def check_greedy_texts(
    variant: Variant,
    prompts: Sequence[np.ndarray],
    texts: Sequence[Sequence[int]],
    allow_ties: bool,
) -> Agreement:
    """Decode each prompt plainly with the contestant's own target and compare with `texts`.

    allow_ties: count a text that parts at a tie of the two best logits as such; otherwise it is wrong like any other.
    """
    agreement = Agreement()
    target = variant.target
    for prompt, text in zip(prompts, texts, strict=True):
        agreement.texts += 1
        plain = generate(target, None, prompt, max_new_tokens=len(text) - len(prompt))
        for _ in plain:
            pass
        if plain.tokens == list(text):
            agreement.equal += 1
            continue
        place = next(i for i, (a, b) in enumerate(zip(plain.tokens, text, strict=False)) if a != b)
        target.truncate(0)
        logits = np.sort(to_numpy(target.forward(np.asarray(text[:place])).logits[-1]))
        margin = float(logits[-1] - logits[-2]) / max(1.0, float(np.abs(logits).max()))
        if allow_ties and margin <= TIE:
            agreement.ties += 1
        else:
            agreement.wrong.append(
                f"{variant.name}: token {place} of a text is {text[place]}, plain decoding gives {plain.tokens[place]} "
                f"and the two best logits differ by {margin:.2g} of the largest"
            )
    return agreement


def peak_memory(build: Callable[[], Variant], prompt: np.ndarray, max_new_tokens: int) -> int:
    """Bytes alive at the worst moment of decoding one text greedily: weights, cache, tables, buffers.

    Host memory as Python's allocators count it, beyond what was there before the decoder was built: with NumPy's arrays and
    those that compiled kernels compute in, without mapped files. On a GPU also by how much the memory pool had to grow.
    """
    empty_gpu_pool()
    pool_before = gpu_pool_bytes()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        variant = build()
        gc.collect()
        tracemalloc.reset_peak()
        _turn(variant, prompt, max_new_tokens, GREEDY, 0)
        return tracemalloc.get_traced_memory()[1] - before + gpu_pool_bytes() - pool_before
    finally:
        tracemalloc.stop()


@dataclass
class _Counts:
    emitted: int = 0
    steps: int = 0
    lengths: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def add(self, counted: object) -> None:
        self.emitted += counted.emitted - 1  # the first token comes from the prompt's pass
        self.steps += counted.steps
        pairs = (
            (self.lengths, counted.passes_of_length),
            (self.drafted, counted.drafted),
            (self.accepted, counted.accepted),
        )
        for total, new in pairs:
            total.extend([0] * (len(new) - len(total)))
            for depth, count in enumerate(new):
                total[depth] += count

    def tokens_per_step(self) -> float:
        return self.emitted / self.steps if self.steps else math.nan

    def acceptance(self) -> list[float]:
        return [a / d if d else math.nan for a, d in zip(self.accepted, self.drafted, strict=True)]


def _turn(
    variant: Variant,
    prompt: np.ndarray,
    max_new_tokens: int,
    sampling: SamplingParams,
    seed: int,
    policy: DraftPolicy | None = None,
) -> tuple:
    """One text: its tokens, how many came after the first, the seconds they took, the statistics."""
    if variant.drafter:
        variant.drafter.min_confidence = variant.min_confidence
    generation = generate(
        variant.target, variant.drafter, prompt, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed, draft_depth=variant.draft_depth,
        rule=variant.rule, tree=variant.tree, policy=policy,
    )  # fmt: skip
    next(generation)
    started = perf_counter()
    for _ in generation:
        pass
    elapsed = perf_counter() - started
    return generation.tokens, generation.statistics.emitted - 1, elapsed, generation.statistics
