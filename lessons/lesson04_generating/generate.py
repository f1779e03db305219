"""Writing a text, one token at a time, in three ways that say the same."""

from collections.abc import Callable, Iterator
from time import perf_counter

from minimtp.backend import Array, Device, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.runtime import ModelRunner
from minimtp.decode.sampling import SamplingParams, SeededRandomSource
from minimtp.engine.tensor import no_grad
from minimtp.model.transformer import Transformer

Chooser = Callable[[Array], int]  # the logits (1, V) of the next token -> the token


def drawn_from(sampling: SamplingParams, seed: int = 0) -> Chooser:
    """Draws every token from the law of its logits."""
    rng = SeededRandomSource(seed)
    return lambda logits: rng.choose(to_numpy(sampling.probabilities(logits))[0])


def reread_as_in_training(
    model: Transformer, device: Device, tokens: list[int], choose: Chooser
) -> Iterator[int]:
    """Each token from the whole text again, through the model that was trained."""
    while True:
        with no_grad():
            hidden = model.hidden(to_device(np.array([tokens]), device))  # (1, T, D)
            logits = model.logits(hidden[:, -1:]).data[0]  # (1, V)
        tokens = [*tokens, choose(logits)]
        yield tokens[-1]


def reread(runtime: ModelRunner, tokens: list[int], choose: Chooser) -> Iterator[int]:
    """Each token from the whole text again, through the code that is made for decoding."""
    while True:
        runtime.truncate(0)
        tokens = [*tokens, choose(runtime.forward(np.array(tokens)).logits[-1:])]
        yield tokens[-1]


def remember(runtime: ModelRunner, tokens: list[int], choose: Chooser) -> Iterator[int]:
    """Each token from the last one alone: all that matters of the others is in the cache."""
    runtime.truncate(0)
    logits = runtime.forward(np.array(tokens)).logits
    while True:
        token = choose(logits[-1:])
        yield token
        logits = runtime.forward(np.array([token])).logits


def ways(
    model: Transformer, runtime: ModelRunner, device: Device, tokens: list[int]
) -> dict[str, Iterator[int]]:
    """The three of them, by name, at temperature 0; each has written one token (compiled code is compiled by then)."""
    greedy = drawn_from(SamplingParams(temperature=0))
    writers = {
        "the whole text again, as in training": reread_as_in_training(
            model, device, tokens, greedy
        ),
        "the whole text again, made for decoding": reread(runtime, tokens, greedy),
        "the last byte, and the cache": remember(
            ModelRunner(model, runtime.context_length), tokens, greedy
        ),
    }
    for writer in writers.values():
        next(writer)
    return writers


def timed(writer: Iterator[int], count: int) -> tuple[list[int], list[float]]:
    """The next `count` tokens, and the seconds that each took."""
    tokens, seconds = [], []
    for _ in range(count):
        began = perf_counter()
        tokens.append(next(writer))
        seconds.append(perf_counter() - began)
    return tokens, seconds
