"""Three ways to generate text, one token at a time. All three give the same text."""

from collections.abc import Callable, Iterator
from time import perf_counter

from minimtp.backend import Array, Device, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.sampling.random_source import SeededRandomSource
from minimtp.engine.tensor import no_grad
from minimtp.model.transformer import Transformer

Sampler = Callable[[Array], int]  # logits (1, V) of the next token -> the token
Way = Callable[[], Iterator[int]]  # starts to generate a text


def settings() -> dict[str, SamplingParams]:
    """Return the settings that the run shows samples of, by name."""
    return {
        "temperature 0": SamplingParams(temperature=0),
        "temperature 1": SamplingParams(),
        "temperature 0.7, top-p 0.9": SamplingParams(0.7, top_p=0.9),
    }


def sampler(sampling: SamplingParams, seed: int = 0) -> Sampler:
    """Return a function that samples a token from the distribution of its logits."""
    rng = SeededRandomSource(seed)
    return lambda logits: rng.choose(to_numpy(sampling.probabilities(logits))[0])


def recompute_with_training_code(
    model: Transformer, device: Device, tokens: list[int], sample: Sampler
) -> Iterator[int]:
    """Generate each token with a forward pass of the training code over the whole sequence."""
    while True:
        with no_grad():
            hidden = model.hidden(to_device(np.array([tokens]), device))  # (1, T, D)
            logits = model.logits(hidden[:, -1:]).data[0]  # (1, V)
        tokens = [*tokens, sample(logits)]
        yield tokens[-1]


def recompute(runner: ModelRunner, tokens: list[int], sample: Sampler) -> Iterator[int]:
    """Generate each token with a forward pass of the decoding code over the whole sequence."""
    while True:
        runner.truncate(0)
        tokens = [*tokens, sample(runner.forward(np.array(tokens)).logits[-1:])]
        yield tokens[-1]


def with_cache(runner: ModelRunner, tokens: list[int], sample: Sampler) -> Iterator[int]:
    """Generate each token with a forward pass over the last token and the KV cache."""
    runner.truncate(0)
    logits = runner.forward(np.array(tokens)).logits
    while True:
        token = sample(logits[-1:])
        yield token
        logits = runner.forward(np.array([token])).logits


def generators(
    model: Transformer, runner: ModelRunner, device: Device, tokens: list[int]
) -> dict[str, Way]:
    """Return the three ways to continue a text at temperature 0, by name."""
    greedy = sampler(SamplingParams(temperature=0))
    return {
        "whole sequence, training code": lambda: recompute_with_training_code(
            model, device, tokens, greedy
        ),
        "whole sequence, decoding code": lambda: recompute(runner, tokens, greedy),
        "last byte only, with a KV cache": lambda: with_cache(runner, tokens, greedy),
    }


def measure(
    ways: dict[str, Way], count: int, turns: int
) -> tuple[dict[str, list[int]], dict[str, list[float]]]:
    """Return the first `count` tokens of each way, and the seconds for each token.

    The ways take turns: each generates its text `turns` times. The median time of each token
    counts, so compiling the kernels does not.
    """
    texts, seconds = {}, {name: [] for name in ways}
    for name in [*ways] * turns:
        texts[name], times = timed(ways[name](), count)
        seconds[name].append(times)
    return texts, {name: np.median(runs, axis=0).tolist() for name, runs in seconds.items()}


def timed(generator: Iterator[int], count: int) -> tuple[list[int], list[float]]:
    """Return the next `count` tokens, and the seconds for each."""
    tokens, seconds = [], []
    for _ in range(count):
        start = perf_counter()
        tokens.append(next(generator))
        seconds.append(perf_counter() - start)
    return tokens, seconds


def logits_difference(
    model: Transformer, runner: ModelRunner, device: Device, tokens: list[int]
) -> float:
    """Return the largest difference between the logits of the training code, which computes the
    whole text at once, and those with the KV cache, which are computed one row at a time.
    """
    with no_grad():
        hidden = model.hidden(to_device(np.array([tokens]), device))  # (1, T, D)
        whole = to_numpy(model.logits(hidden).data[0])  # (T, V)
    runner.truncate(0)
    largest = 0.0
    for token, row in zip(tokens, whole, strict=True):
        cached = to_numpy(runner.forward(np.array([token])).logits[0])  # (V,)
        largest = max(largest, float(np.abs(cached - row).max()))
    return largest
