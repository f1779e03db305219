"""The measurements of each configuration: quality, size, memory, and decoding speed at two
temperatures.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import msgspec
from tqdm import tqdm

from minimtp.backend import Device
from minimtp.backend import numpy as np
from minimtp.bench.agreement import batch_invariant, check_greedy_texts
from minimtp.bench.interleaved import Speed, Variant, measure_interleaved, tune
from minimtp.bench.memory import peak_memory
from minimtp.compare.configurations import TITLES
from minimtp.compare.result_cache import Figures, GetPart
from minimtp.compare.schema import FiniteEvaluation, MemoryPart, by_configuration, speed_part
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.policy import cost
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.decode.target import Target
from minimtp.errors import UserError
from minimtp.formats.load import load
from minimtp.model.matrix import bits_per_weight, weight_bytes
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate
from minimtp.training.evaluation import Evaluation
from minimtp.training.run.folder import LoadedRun

TEMPERATURES = {"": GREEDY, "_t1": SamplingParams(1.0)}  # by the suffix of the results' names

Runs = dict[str, LoadedRun]  # by configuration
Results = dict[str, Figures]  # by configuration


@dataclass(frozen=True)
class Sizes:
    """The size of the measurement. Lengths are in tokens.

    prompts of length `prompt` are continued by at most `max_new_tokens` tokens, `repeats` times
    each. The draft depth and the confidence at which a draft ends are chosen among `depths` and
    `confidences` on `trials` prompts of training text.
    """

    prompts: int = 48
    prompt: int = 32
    max_new_tokens: int = 96
    repeats: int = 3
    trials: int = 16
    depths: tuple[int, ...] = (4, 7, 15)
    confidences: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)


TINY = Sizes(2, 8, 16, repeats=1, trials=1, depths=(7,), confidences=(0.0, 0.3))
SIZES = {  # by preset
    "tiny": TINY,
    "quick": Sizes(),
    "laptop": Sizes(prompt=64, max_new_tokens=192),
    "gpu": Sizes(prompt=128, max_new_tokens=512),
}


@dataclass(frozen=True)
class Prompts:
    """Held-out prompts for the measurement, and prompts of training text for the choice of the
    draft depth; each (T,) int64.
    """

    held_out: list[np.ndarray]
    training: list[np.ndarray]


def choose_prompts(corpus: Corpus, sizes: Sizes) -> Prompts:
    """Choose prompts spread evenly over the text. Raises UserError if the text is too short for
    them.
    """
    return Prompts(
        _spread(corpus.validation, sizes, sizes.prompts), _spread(corpus.train, sizes, sizes.trials)
    )


def _spread(tokens: np.ndarray, sizes: Sizes, count: int) -> list[np.ndarray]:
    if len(tokens) < count * sizes.prompt:
        raise UserError(
            f"the text has {len(tokens)} tokens, too few for {count} prompts of {sizes.prompt}: "
            "give more text with --corpus"
        )
    starts = np.linspace(0, len(tokens) - sizes.prompt, count).astype(int)
    return [tokens[start : start + sizes.prompt].astype(np.int64) for start in starts]


def measure_configurations(
    runs: Runs,
    corpus: Corpus,
    prompts: Prompts,
    sizes: Sizes,
    device: Device,
    *,
    threads: int | None = None,
    get_part: GetPart = lambda part, measure, schema: measure(),
) -> list[Figures]:
    """Return the results of each configuration by name. get_part: returns stored results, or
    measures.
    """
    evaluations = {
        name: get_part(
            f"evaluation of {name}", partial(_evaluate, loaded, corpus, threads), FiniteEvaluation
        )
        for name, loaded in runs.items()
    }
    parts = [
        get_part(
            f"temperature {sampling.temperature:g}",
            partial(_speeds, runs, prompts, sizes, device, suffix, sampling),
            speed_part(suffix, runs),
        )
        for suffix, sampling in TEMPERATURES.items()
    ]
    measure_memory = partial(_memory, runs, prompts.held_out[0], sizes, device)
    parts.append(get_part("memory", measure_memory, by_configuration(MemoryPart, runs)))
    standard = msgspec.convert(evaluations["standard"], Evaluation)
    return [
        _quality(name, runs[name], msgspec.convert(evaluations[name], Evaluation), standard)
        | {key: value for part in parts for key, value in part[name].items()}
        for name in TITLES
    ]


def _evaluate(loaded: LoadedRun, corpus: Corpus, threads: int | None) -> Figures:
    return asdict(evaluate(loaded, corpus, threads=threads))


def _quality(name: str, loaded: LoadedRun, evaluation: Evaluation, standard: Evaluation) -> Figures:
    return {
        "name": name,
        "title": TITLES[name],
        "folder": str(loaded.path),
        "bits_per_byte": evaluation.bits_per_byte,
        "next_token_accuracy": evaluation.accuracy[0],
        "accuracy": evaluation.accuracy,
        "quality_percent": 100.0 * standard.bits_per_byte / evaluation.bits_per_byte,
        "weight_bytes": weight_bytes(loaded.model),
        "bits_per_weight": bits_per_weight(loaded.model),
    }


def _speeds(
    runs: Runs,
    prompts: Prompts,
    sizes: Sizes,
    device: Device,
    suffix: str,
    sampling: SamplingParams,
) -> Results:
    """Measure decoding at one temperature. The names of the results end with `suffix`."""
    variants = {name: _variant(name, loaded) for name, loaded in runs.items()}
    undrafted = {
        name: Variant(f"{name}, plainly", variants[name].target) for name in ("mtp", "mtp_qat_int4")
    }
    trials: dict[str, list[Speed]] = {name: [] for name in variants}
    for name, variant in variants.items():
        if variant.drafter:
            trials[name] = tune(
                variant,
                sizes.depths,
                sizes.confidences,
                prompts.training,
                sizes.max_new_tokens,
                sampling,
            )
    speeds = _alternate([*variants.values(), *undrafted.values()], prompts, sizes, sampling)
    results = {}
    for name, variant in variants.items():
        plain = speeds[undrafted[name].name] if name in undrafted else None
        results[name] = _named(
            suffix, variant, speeds[name], speeds["standard"], plain, trials[name]
        )
        if sampling is GREEDY:
            agreement = check_greedy_texts(
                variant,
                prompts.held_out,
                speeds[name].texts,
                allow_ties=not batch_invariant(device.name),
            )
            results[name]["greedy_texts"] = asdict(agreement)
            results[name]["seconds_per_pass"] = _pass_costs(variant.target, prompts.held_out[0])
    return results


def _pass_costs(target: Target, prompt: np.ndarray) -> dict[str, float]:
    """Return the seconds of a forward pass by its number of rows, after the prompt."""
    target.truncate(0)
    target.forward(prompt)
    seconds = cost.measure(target)
    return {str(rows): value for rows, value in zip(cost.MEASURED, seconds, strict=False)}


def _alternate(
    variants: Sequence[Variant], prompts: Prompts, sizes: Sizes, sampling: SamplingParams
) -> dict[str, Speed]:
    """Measure the variants on the held-out prompts, with a progress bar."""
    texts = sizes.repeats * sizes.prompts * len(variants)
    title = f"decoding at temperature {sampling.temperature:g}"
    with tqdm(total=texts, desc=title, unit="text", disable=None, file=sys.stderr) as bar:
        return measure_interleaved(
            variants,
            prompts.held_out,
            max_new_tokens=sizes.max_new_tokens,
            sampling=sampling,
            repeats=sizes.repeats,
            progress=bar.update,
        )


def _memory(runs: Runs, prompt: np.ndarray, sizes: Sizes, device: Device) -> Results:
    def build(name: str) -> Variant:
        return _variant(name, load(runs[name].path, device.name))

    return {
        name: {
            "peak_memory_bytes": peak_memory(partial(build, name), prompt, sizes.max_new_tokens),
            "cache_bytes": deploy(loaded.model)[0].cache_bytes(len(prompt) + sizes.max_new_tokens),
        }
        for name, loaded in runs.items()
    }


def _variant(name: str, loaded: LoadedRun) -> Variant:
    target, drafter = deploy(loaded.model)
    return Variant(name, target, drafter, drafter.max_depth if drafter else 0)


def _named(
    suffix: str,
    variant: Variant,
    speed: Speed,
    standard: Speed,
    plain: Speed | None,
    trials: Sequence[Speed],
) -> Figures:
    results = {
        "tokens_per_second": speed.tokens_per_second,
        "tokens_per_second_slowest": speed.slowest,
        "tokens_per_second_fastest": speed.fastest,
        "tokens_per_step": speed.tokens_per_step,
        "speedup": speed.speedup_over(standard),
        "draft_depth": variant.draft_depth,
        "min_confidence": variant.min_confidence,
        "acceptance": speed.acceptance,
        "drafted": speed.drafted,
        # Of the trials on training text: drafts, and seconds of drafting, per step.
        "drafting_trials": [[t.drafted_per_step, t.drafting_seconds_per_step] for t in trials],
    }
    if plain:
        results["tokens_per_second_without_drafts"] = plain.tokens_per_second
        results["speedup_without_drafts"] = plain.speedup_over(standard)
    return {f"{name}{suffix}": value for name, value in results.items()}
