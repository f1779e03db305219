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
EVERY_DRAFT, FROM_P = "accept every draft", "resample from p"
# By temperature: the rules that the run compares, and those that its details compare.
RULES = {1: (PLAIN, EVERY_DRAFT, FROM_P, "token rule"), 0: (PLAIN, "greedy")}
TREE = ", tree"  # the end of a name
MORE_RULES = {
    1: (PLAIN, *(rule + tree for rule in ("shared noise", "token rule", "block rule")
                 for tree in ("", TREE))),
    0: (PLAIN, "greedy", "greedy" + TREE),
}  # fmt: skip
BY_DEPTH = {1: "token rule", 0: "greedy"}  # the rule that is measured with several draft depths
Name = TypeVar("Name", str, int)  # a rule, or a draft depth
RuleMaker = Callable[[int, int], Rule]  # seed, position of the first new token -> rule of one text


def rule_maker(name: str, temperature: float, vocabulary_size: int) -> RuleMaker:
    """Return what makes the rule that the run prints with this name."""
    sampling = SamplingParams(temperature)
    if name == EVERY_DRAFT:
        return lambda seed, _: AcceptEverything(sampling, SeededRandomSource(seed))
    if name == FROM_P:
        return lambda seed, _: ResampleFromP(sampling, SeededRandomSource(seed))
    names = {PLAIN: "shared-noise", "shared noise": "shared-noise", "block rule": "block"}
    kind = "token" if sampling.greedy else names.get(name.removesuffix(TREE), "token")
    return lambda seed, position: make_rule(kind, sampling, seed, vocabulary_size, position)


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
    target: ModelRunner,
    drafter: Drafter,
    prompts: np.ndarray,
    temperature: float,
    names: Sequence[str],
    depth: int,
) -> dict[str, Measured]:
    """Measure the rules with these names, the first of which is plain decoding. Print a line for
    each.
    """
    print(f"\ntemperature {temperature}, {depth} drafts: tokens per pass, bits per byte, speed")
    rules = {
        name: Variant(
            rule_maker(name, temperature, target.vocabulary_size),
            0 if name == PLAIN else depth,
            name.endswith(TREE),
        )
        for name in names
    }
    by_rule = measure(target, drafter, prompts, rules)
    for name, found in by_rule.items():
        # The two wrong rules are not compiled, so their speed would say nothing.
        with_speed = name not in (EVERY_DRAFT, FROM_P)
        print(f"  {name:<20}" + describe(found, by_rule[PLAIN], target, with_speed))
    return by_rule


def measure_depths(
    target: ModelRunner, drafter: Drafter, prompts: np.ndarray, temperature: float
) -> dict[int, Measured]:
    """Return the results by draft depth. Depth 0 is plain decoding."""
    plain, drafting = (
        rule_maker(name, temperature, target.vocabulary_size)
        for name in (PLAIN, BY_DEPTH[temperature])
    )
    depths = {k: Variant(drafting if k else plain, k) for k in DEPTHS if k <= drafter.max_depth}
    return measure(target, drafter, prompts, depths)


def describe(found: Measured, plain: Measured, target: ModelRunner, with_speed: bool) -> str:
    """Return one line: tokens per pass, the loss that the model gives to the texts, and speed."""
    start = found.rounds[0][0].position - 1  # prefill gave one token before the first round
    loss = np.concatenate([bits(target, text, start) for text in found.texts]).mean()
    same = ", same texts" if found is not plain and found.texts == plain.texts else ""
    speed = f"  {found.tokens_per_second:>7,.0f} tokens/s" if with_speed else ""
    return f"{found.tokens_per_pass:.2f} tokens  {loss:.2f} bits{speed}{same}"


def bits(target: ModelRunner, text: Sequence[int], start: int) -> np.ndarray:
    """Return -log2 p of each token from `start` on, with the model's distribution p."""
    target.truncate(0)
    p = softmax(to_numpy(target.forward(np.array(text[:-1])).logits[start - 1 :]))
    return -np.log2(p[np.arange(len(p)), text[start:]])
