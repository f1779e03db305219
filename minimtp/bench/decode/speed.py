"""Measure the speed-up of each way of drafting, and the losing cases: `minimtp bench decode`.

The speed-up depends on the text. Every drafter, with every verification rule, therefore continues
prompts of three kinds (prompts.py) at several temperatures, alternating with plain decoding
(bench/interleaved.py). A speed is the median over the repeats, with its range. A speed-up is the
median of the ratios of pairs of runs, with their middle half. If a speed-up is below 1, the
report lists the case as losing.

**Predicted** is the standard estimate (Leviathan et al. 2023, 2211.17192, section 3.3), with every
quantity measured:

    speed-up = tokens per step * c(1) / (mean of c(T) over the steps + drafting seconds per step)

c(T) is the time of a forward pass over T tokens (decode/policy/cost.py). The estimate leaves out
sampling, verification and bookkeeping. Their time explains the difference from the measured
speed-up, unless plain decoding spends more time on them per token.

**Equal texts.** At temperature 0, and with shared noise at any temperature, every variant must
generate the text of plain decoding. Each row counts the texts that are equal.

**Repeated share.** Greedy text of a small model falls into loops, which are easy to draft. Each row
gives the share of tokens that repeat an earlier stretch of `STRETCH` tokens and its continuation.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from minimtp import kernels, machine
from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.bench.decode.plot import draw
from minimtp.bench.decode.prompts import TEXTS, Sizes, choose_prompts, fit_to_context
from minimtp.bench.decode.report import tables
from minimtp.bench.decode.variants import all_variants, with_rules
from minimtp.bench.decode.weight_formats import measure_weight_formats
from minimtp.bench.interleaved import Speed, Variant, measure_interleaved
from minimtp.bench.json_lines import hand_over, result_file
from minimtp.decode.sampling.params import SamplingParams
from minimtp.files import check_file, check_folder, make_folder
from minimtp.formats.load import load, load_draft
from minimtp.model.matrix import bits_per_weight, weight_bytes

FILE_NAME = "bench-decode.json"
RESULT = result_file("decode")
TEMPERATURES = (0.0, 0.7, 1.0)
STRETCH = 12
Row = dict[str, object]


def measure_decoding(
    folder: str | Path,
    *,
    sizes: Sizes | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    texts: Sequence[str] = TEXTS,
    small: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure the run in `folder` and return the result. With `out`, a folder, also save and plot
    it.

    small: a run with the same tokenizer that drafts too. Raises UserError if an option is invalid.
    """
    started = time.perf_counter()
    if out is not None:
        check_folder(out)
        check_file(Path(out, FILE_NAME), RESULT)
    loaded, load_before = load(folder, device), machine.load()
    sizes = fit_to_context(sizes or Sizes(), loaded)
    samplings = [SamplingParams(temperature) for temperature in temperatures]
    prompts, missing = choose_prompts(loaded, texts, sizes, seed)
    if out is not None:
        out = make_folder(out)
    variants, costs = all_variants(loaded, load_draft(small, loaded) if small else None)
    device_name = choose_device(device).name
    kernel, why = kernels.describe(device_name)
    report(
        f"{folder}: {loaded.recipe.trunk_parameters():,} parameters, "
        f"{bits_per_weight(loaded.model):.2f} bits per weight; kernels {kernel} ({why})"
    )
    machine.warn_if_busy(load_before, report)
    for name, reason in missing.items():
        report(f"{name} is left out: {reason}")

    variants[0].target.forward(np.zeros(sizes.prompt, np.int64))  # costs are those after a prompt
    passes, _ = costs.at(sizes.prompt)
    rows = _measure_rows(variants, prompts, samplings, sizes, passes, seed)
    by_format = measure_weight_formats(
        loaded, next(iter(prompts.values())), temperatures, sizes, device=device_name, seed=seed
    )
    result = {
        "measurement": "decode", "run": str(folder), "recipe": loaded.recipe.to_dict(),
        "parameters": loaded.recipe.trunk_parameters(), "weight_bytes": weight_bytes(loaded.model),
        "bits_per_weight": bits_per_weight(loaded.model),
        "small": None if small is None else str(small), "sizes": asdict(sizes),
        "temperatures": list(temperatures), "seed": seed, "missing": missing, "kernels": kernel,
        "device": device_name, "decode_threads": 1, "seconds_per_pass": passes, "rows": rows,
        "formats": by_format, "machine": machine.describe(load_before, device_name),
        "versions": machine.versions(), "seconds": time.perf_counter() - started,
    }  # fmt: skip
    hand_over(result, tables, out and out / FILE_NAME, RESULT, report, draw=draw)
    return result


def _measure_rows(
    variants: Sequence[Variant],
    prompts: dict[str, list[np.ndarray]],
    samplings: Sequence[SamplingParams],
    sizes: Sizes,
    passes: Sequence[float],
    seed: int,
) -> list[Row]:
    """Measure every variant with every rule on every kind of text at every temperature."""
    compared = [list(with_rules(variants, sampling)) for sampling in samplings]
    runs = sizes.repeats * sizes.prompts * len(prompts) * sum(map(len, compared))
    rows: list[Row] = []
    with tqdm(total=runs, desc="decoding", unit="text", disable=None, file=sys.stderr) as bar:
        for text, chosen in prompts.items():
            for sampling, with_rule in zip(samplings, compared, strict=True):
                speeds = measure_interleaved(
                    with_rule,
                    chosen,
                    max_new_tokens=sizes.max_new_tokens,
                    sampling=sampling,
                    repeats=sizes.repeats,
                    seed=seed,
                    progress=bar.update,
                )
                rows += _rows(text, sampling.temperature, speeds, passes, sizes)
    return rows


def _rows(
    text: str, temperature: float, speeds: dict[str, Speed], passes: Sequence[float], sizes: Sizes
) -> Iterator[Row]:
    """Return a row per variant and rule, compared with the first: plain decoding with the default
    rule.
    """
    plain = next(iter(speeds.values()))
    for name, speed in speeds.items():
        variant, rule = name.split(" | ")
        pairs = zip(chain(*speed.rates), chain(*plain.rates), strict=True)
        ratios = sorted(mine / others for mine, others in pairs)
        low, high = (float(np.quantile(ratios, share)) for share in (0.25, 0.75))
        rows_fed = sum(rows * steps for rows, steps in enumerate(speed.passes_of_length))
        equal = [mine == others for mine, others in zip(speed.texts, plain.texts, strict=True)]
        repeated = [repeated_share(tokens[sizes.prompt :]) for tokens in speed.texts]
        yield {
            "text": text, "temperature": temperature, "variant": variant, "rule": rule,
            "tokens_per_second": speed.tokens_per_second,
            "slowest": speed.slowest, "fastest": speed.fastest,
            "speedup": statistics.median(ratios), "speedup_low": low, "speedup_high": high,
            "predicted_speedup": predicted_speedup(speed, passes),
            "tokens_per_step": speed.tokens_per_step,
            "drafted_per_step": rows_fed / speed.steps - 1,
            "acceptance": [None if share != share else share for share in speed.acceptance],
            "drafting_seconds_per_step": speed.drafting_seconds_per_step,
            "equal_texts": sum(equal), "texts": len(equal),
            "repeated_share": float(np.mean(repeated)),
        }  # fmt: skip


def predicted_speedup(speed: Speed, passes: Sequence[float]) -> float:
    """Return the estimate that this file's docstring defines. passes: seconds of a forward pass
    over 1, 2, ... rows.
    """
    counts = enumerate(speed.passes_of_length)
    verifying = sum(steps * passes[rows - 1] for rows, steps in counts if steps) / speed.steps
    return speed.tokens_per_step * passes[0] / (verifying + speed.drafting_seconds_per_step)


def repeated_share(tokens: Sequence[int]) -> float:
    """Return the share of tokens that followed the same `STRETCH` tokens earlier in the text.

    Counts only tokens that have a whole stretch before them.
    """
    seen, repeated = set(), 0
    for end in range(STRETCH, len(tokens)):
        stretch = tuple(tokens[end - STRETCH : end + 1])
        repeated += stretch in seen
        seen.add(stretch)
    return repeated / max(1, len(tokens) - STRETCH)
