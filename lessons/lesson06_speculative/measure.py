"""Generate texts with each rule, and measure tokens per pass, speed, and the model's loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from lessons.lesson06_speculative.rules import AcceptEverything, ResampleFromP
from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.generation import Generation, Limits
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.round import Round
from minimtp.decode.rules.registry import make_rule
from minimtp.decode.rules.rule import Rule
from minimtp.decode.sampling.params import SamplingParams, softmax
from minimtp.decode.sampling.random_source import SeededRandomSource
from minimtp.decode.states import DecodingStates

DEPTHS = (0, 1, 3, 5, 7, 15)
REPEATS = 2
PLAIN = "plain decoding"
Name = TypeVar("Name", str, int)  # a rule, or a draft depth
RuleMaker = Callable[[int, int], Rule]  # seed, position of the first new token -> rule of one text


def rules_at(temperature: float, vocabulary_size: int) -> dict[str, RuleMaker]:
    """Return the rules by the names that the run prints."""
    sampling = SamplingParams(temperature)

    def library(name: str) -> RuleMaker:
        return lambda seed, position: make_rule(name, sampling, seed, vocabulary_size, position)

    if sampling.greedy:
        greedy = library("token")
        return {PLAIN: greedy, "greedy, tree": greedy, "greedy": greedy}
    return {
        PLAIN: library("shared-noise"),
        "accept every draft": lambda seed, _: AcceptEverything(sampling, SeededRandomSource(seed)),
        "resample from p": lambda seed, _: ResampleFromP(sampling, SeededRandomSource(seed)),
        "token rule": library("token"),
        "token rule, tree": library("token"),
        "block rule": library("block"),
        "block rule, tree": library("block"),
        "shared noise, tree": library("shared-noise"),
        "shared noise": library("shared-noise"),
    }


class Variant(NamedTuple):
    """A way to generate. depth: drafts per round, 0 for plain decoding."""

    make_rule: RuleMaker
    depth: int
    tree: bool = False


@dataclass
class Measured:
    """Texts (including prompts), and the rounds and times of all of them, without prefill."""

    texts: list[list[int]] = field(default_factory=list)
    rounds: list[list[Round]] = field(default_factory=list)  # of each text
    seconds_draft: float = 0.0  # in the drafter
    seconds_verify: float = 0.0  # everything else

    @property
    def passes(self) -> int:
        return sum(len(rounds) for rounds in self.rounds)

    @property
    def tokens(self) -> int:
        return sum(len(round_.tokens) for rounds in self.rounds for round_ in rounds)

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.passes

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / (self.seconds_draft + self.seconds_verify)

    @property
    def alpha(self) -> float:
        """The share of the rounds with drafts in which the first draft was accepted."""
        drafted = [round_ for rounds in self.rounds for round_ in rounds if round_.drafts]
        return sum(round_.accepted > 0 for round_ in drafted) / len(drafted)


def measure(
    target: ModelRunner, drafter: Drafter, prompts: np.ndarray, variants: dict[Name, Variant]
) -> dict[Name, Measured]:
    """Continue each prompt of (P, T) to the context length, with every variant.

    The seed of a text is its index. The variants take turns, and each generates a text twice,
    always in the same rounds. The fastest time of each round counts.
    """
    found = {name: Measured() for name in variants}
    states, new_tokens = DecodingStates(target, drafter), target.context_length - prompts.shape[1]
    for seed, prompt in enumerate(prompts):
        repeats = {name: [] for name in variants}
        for name in [*variants] * REPEATS:
            make_rule, depth, tree = variants[name]
            limits = Limits(new_tokens, depth, tree_nodes=tree * depth)
            generation = Generation(states, prompt, make_rule(seed, len(prompt)), limits)
            rounds, seconds = timed_rounds(generation)
            repeats[name].append(seconds)
            if len(repeats[name]) == 1:
                found[name].texts.append(generation.tokens)
                found[name].rounds.append(rounds)
        for name, result in found.items():
            draft, verify = np.min(repeats[name], axis=0).sum(axis=0).tolist()
            result.seconds_draft += draft
            result.seconds_verify += verify
    return found


def timed_rounds(generation: Generation) -> tuple[list[Round], np.ndarray]:
    """Return the rounds after prefill, and their seconds (rounds, 2) for drafting and verifying."""
    rounds, seconds, statistics = [], [], generation.statistics
    for round_ in generation.rounds():
        rounds.append(round_)
        seconds.append((statistics.seconds_draft, statistics.seconds_verify))
    return rounds[1:], np.diff(seconds, axis=0)


def measure_rules(
    target: ModelRunner, drafter: Drafter, prompts: np.ndarray, temperature: float, depth: int
) -> tuple[dict[str, Measured], dict[int, Measured]]:
    """Measure every rule and print a line for each.

    Returns the results by the rule's name, and the results of the last rule by draft depth, on half
    of the prompts.
    """
    rules = {
        name: Variant(make, 0 if name == PLAIN else depth, "tree" in name)
        for name, make in rules_at(temperature, target.vocabulary_size).items()
    }
    by_rule = measure(target, drafter, prompts, rules)
    for name, found in by_rule.items():
        print(f"  {name:<20}" + describe(found, by_rule[PLAIN], target))
    *_, last = rules.values()
    depths = {k: Variant(last.make_rule, k) for k in DEPTHS if k <= drafter.max_depth}
    return by_rule, measure(target, drafter, prompts[::2], depths)


def describe(found: Measured, plain: Measured, target: ModelRunner) -> str:
    """Return one line: tokens per pass, speed, and the loss that the model gives to the texts."""
    start = found.rounds[0][0].position - 1  # prefill gave one token before the first round
    loss = np.concatenate([bits(target, text, start) for text in found.texts]).mean()
    same = ", same texts" if found is not plain and found.texts == plain.texts else ""
    speed = f"{found.tokens_per_pass:.2f} tokens {found.tokens_per_second:>7,.0f} tokens/s"
    return f"{speed}  {loss:.2f} bits{same}"


def bits(target: ModelRunner, text: Sequence[int], start: int) -> np.ndarray:
    """Return -log2 p of each token from `start` on, with the model's distribution p."""
    target.truncate(0)
    p = softmax(to_numpy(target.forward(np.array(text[:-1])).logits[start - 1 :]))
    return -np.log2(p[np.arange(len(p)), text[start:]])
