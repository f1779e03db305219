"""Generate texts with each rule, and measure tokens per pass, speed, and the model's loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

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

DEPTHS = (1, 3, 5, 7, 11, 15)
RuleMaker = Callable[[int, int], Rule]  # seed, position of the first new token -> rule of one text


def rules_at(temperature: float, vocabulary_size: int) -> dict[str, RuleMaker]:
    """Return the rules by the names that the run prints."""
    sampling = SamplingParams(temperature)

    def library(name: str) -> RuleMaker:
        return lambda seed, position: make_rule(name, sampling, seed, vocabulary_size, position)

    if sampling.greedy:
        greedy = library("token")
        return {"plain decoding": greedy, "greedy, tree": greedy, "greedy": greedy}
    return {
        "plain decoding": library("shared-noise"),
        "accept every draft": lambda seed, _: AcceptEverything(sampling, SeededRandomSource(seed)),
        "resample from p": lambda seed, _: ResampleFromP(sampling, SeededRandomSource(seed)),
        "token rule": library("token"),
        "token rule, tree": library("token"),
        "block rule": library("block"),
        "block rule, tree": library("block"),
        "shared noise, tree": library("shared-noise"),
        "shared noise": library("shared-noise"),
    }


@dataclass
class Measured:
    """Texts (including prompts), the rounds of each text, and the speed of the faster run."""

    texts: list[list[int]]
    rounds: list[list[Round]]
    tokens_per_second: float

    @property
    def tokens_per_pass(self) -> float:
        """Tokens per forward pass. Prefill and its token are not counted."""
        rounds = [round_ for rounds in self.rounds for round_ in rounds[1:]]
        return sum(len(round_.tokens) for round_ in rounds) / len(rounds)


def measure(
    target: ModelRunner,
    drafter: Drafter,
    prompts: np.ndarray,
    make: RuleMaker,
    depth: int,
    tree: bool = False,
) -> Measured:
    """Continue each prompt of (P, T) to the context length, with `depth` drafts per round.

    depth 0 is plain decoding. The seed of a text is its index. Everything runs twice, and the
    faster run counts.
    """
    speeds = []
    limits = Limits(target.context_length - prompts.shape[1], depth, tree_nodes=tree * depth)
    states = DecodingStates(target, drafter if depth else None)
    for _ in range(2):
        texts, rounds, tokens, seconds = [], [], 0, 0.0
        for seed, prompt in enumerate(prompts):
            rule = make(seed, len(prompt))
            generation = Generation(states, prompt, rule, limits)
            remaining = generation.rounds()
            prefill = next(remaining)
            start = perf_counter()
            decoding = list(remaining)
            seconds += perf_counter() - start
            tokens += sum(len(round_.tokens) for round_ in decoding)
            texts.append(generation.tokens)
            rounds.append([prefill, *decoding])
        speeds.append(tokens / seconds)
    return Measured(texts, rounds, max(speeds))


def measure_rules(
    target: ModelRunner, drafter: Drafter, prompts: np.ndarray, temperature: float, depth: int
) -> dict[str | int, Measured]:
    """Measure every rule and print a line for each.

    Returns the results by the rule's name, and the results of the last rule by draft depth, on a
    quarter of the prompts.
    """
    found, rules = {}, rules_at(temperature, target.vocabulary_size)
    for name, make in rules.items():
        found[name] = measure(target, drafter, prompts, make, depth if found else 0, "tree" in name)
        print(f"  {name:<20}" + describe(found[name], found["plain decoding"], target))
    by_depth = {
        depth: measure(target, drafter, prompts[::4], make, depth)
        for depth in DEPTHS
        if depth <= drafter.max_depth
    }
    return found | by_depth


def describe(found: Measured, plain: Measured, target: ModelRunner) -> str:
    """Return one line: tokens per pass, speed, and the loss that the model gives to the texts."""
    start = found.rounds[0][0].position
    loss = np.concatenate([bits(target, text, start) for text in found.texts]).mean()
    same = ", same texts" if found is not plain and found.texts == plain.texts else ""
    speed = f"{found.tokens_per_pass:.2f} tokens per pass{found.tokens_per_second:>8,.0f} tokens/s"
    return f"{speed}  {loss:.2f} bits per byte{same}"


def bits(target: ModelRunner, text: Sequence[int], start: int) -> np.ndarray:
    """Return -log2 p of each token from `start` on, with the model's distribution p."""
    target.truncate(0)
    p = softmax(to_numpy(target.forward(np.array(text[:-1])).logits[start - 1 :]))
    return -np.log2(p[np.arange(len(p)), text[start:]])
