"""Texts written with drafts, under any rule: how many tokens a pass of the model brings, how fast, how surprising."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from lessons.lesson06_speculative.rules import Forgetful, Trusting
from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.generation import Generation, Limits
from minimtp.decode.round import Round
from minimtp.decode.rules.registry import make_rule
from minimtp.decode.rules.rule import Rule
from minimtp.decode.runtime import ModelRunner
from minimtp.decode.sampling import SamplingParams, SeededRandomSource, softmax

DEPTHS = (1, 3, 5, 7, 11, 15)
Maker = Callable[[int, int], Rule]  # seed, position of the first new token -> a rule for one text


def rules_at(temperature: float, vocabulary: int) -> dict[str, Maker]:
    """What to decode with, by the names that the run prints: plain decoding first, then wrong rules, then right ones."""
    law = SamplingParams(temperature)

    def library(name: str) -> Maker:
        return lambda seed, position: make_rule(name, law, seed, vocabulary, position)

    if law.greedy:
        same = library("token")
        return {"plain decoding": same, "equal, in a tree": same, "equal to the argmax": same}
    return {
        "plain decoding": library("shared-noise"),
        "every draft stands": lambda seed, position: Trusting(law, SeededRandomSource(seed)),
        "forgetful rule": lambda seed, position: Forgetful(law, SeededRandomSource(seed)),
        "token rule": library("token"),
        "token, in a tree": library("token"),
        "block rule": library("block"),
        "block, in a tree": library("block"),
        "noise, in a tree": library("shared-noise"),
        "shared noise": library("shared-noise"),
    }


@dataclass
class Written:
    """Texts (prompts included), the rounds of each, and the faster of two times."""

    texts: list[list[int]]
    rounds: list[list[Round]]
    tokens_per_second: float

    @property
    def tokens_per_pass(self) -> float:
        """The prompt's own pass, and the token it brings, not counted."""
        rounds = [round_ for rounds in self.rounds for round_ in rounds[1:]]
        return sum(len(round_.tokens) for round_ in rounds) / len(rounds)


def write(
    target: ModelRunner,
    drafter: Drafter,
    prompts: np.ndarray,
    rule: Maker,
    depth: int,
    tree: bool = False,
) -> Written:
    """Continue each of the prompts (P, T) to the model's context with `depth` drafts a round, 0 for plain decoding; as a tree?

    The seed of a text is its number. Done twice, for the time.
    """
    count, speeds = target.context_length - prompts.shape[1], []
    for _ in range(2):
        texts, rounds, tokens, seconds = [], [], 0, 0.0
        for seed, prompt in enumerate(prompts):
            chosen = rule(seed, len(prompt))
            guesses = drafter if depth else None
            limits = Limits(count, depth, tree_nodes=tree * depth)
            generation = Generation(target, guesses, prompt, chosen, limits)
            running = generation.rounds()
            story = [next(running)]  # the prompt's own pass
            began = perf_counter()
            story += running
            seconds += perf_counter() - began
            tokens += sum(len(round_.tokens) for round_ in story[1:])
            texts.append(generation.tokens)
            rounds.append(story)
        speeds.append(tokens / seconds)
    return Written(texts, rounds, max(speeds))


def write_all(
    target: ModelRunner, drafter: Drafter, prompts: np.ndarray, temperature: float, depth: int
) -> dict[str | int, Written]:
    """The texts of every rule by its name, a line printed for each; by depth those of the last rule, on fewer prompts."""
    written, rules = {}, rules_at(temperature, target.vocabulary_size)
    for name, rule in rules.items():
        written[name] = write(
            target, drafter, prompts, rule, depth if written else 0, "tree" in name
        )
        print(f"  {name:<20}" + describe(written[name], written["plain decoding"], target))
    return written | {
        deep: write(target, drafter, prompts[::4], rule, deep)
        for deep in DEPTHS
        if deep <= drafter.max_depth
    }


def describe(found: Written, plain: Written, target: ModelRunner) -> str:
    """A line: what a pass brought, how fast it was, and what the model itself would say of the texts."""
    start = found.rounds[0][0].position
    surprise = np.concatenate([bits(target, text, start) for text in found.texts]).mean()
    same = ", the same texts" if found is not plain and found.texts == plain.texts else ""
    speed = f"{found.tokens_per_pass:.2f} tokens a pass{found.tokens_per_second:>8,.0f} tokens/s"
    return f"{speed}  {surprise:.2f} bits per byte{same}"


def bits(target: ModelRunner, text: Sequence[int], start: int) -> np.ndarray:
    """-log2 of what the model itself gives to each of the text's tokens from `start` on."""
    target.truncate(0)
    law = softmax(to_numpy(target.forward(np.array(text[:-1])).logits[start - 1 :]))
    return -np.log2(law[np.arange(len(law)), text[start:]])
