"""Compare the training speed of minimtp and of PyTorch on the same device: `minimtp bench train`.

The preset's standard model is trained by minimtp and by PyTorch (implementations.py). On the CPU,
PyTorch uses the same number of threads, and is measured eagerly and compiled. On a GPU it uses the
same precision, and is measured eagerly and with whole steps recorded as a CUDA graph. minimtp also
trains with 4-bit rounding (QAT), with rounding whose steps are learned, and with heads for three
more tokens, to show how much slower that is.

**Alternating.** The speed of a shared machine drifts, so the implementations alternate, round by
round, and their order is reversed after each round. A round is a fixed number of training steps. A
speed is the median over the rounds, given with its range. A ratio is the median of the ratios of
neighbouring rounds. The time to copy batches to a GPU is counted. The time to cut them from the
text is not counted. The command warns if the machine is busy, because that slows the
implementations unequally: PyTorch's threads spin until all have arrived. With two threads and one
core taken by other work, PyTorch was 8 to 80 times slower than with one thread.

**Clock.** On the CPU, the host's clock measures the time. On a GPU it is the device's own clock,
from an event before the round to an event after it, including idle time. The host's time is
reported too.

**Equal work.** All start from the same weights and see the same batches. The first 20 steps warm up
and compile. They are not timed, and all implementations of the same model must have the same loss.
In float32 they must agree within 1e-4 of the loss. A float32 loss is rounded to 1e-7 of itself.
Sums in another order differ by one or two roundings, and every training step multiplies the
difference. We saw 6e-7 with `quick` and 4e-5 with `laptop`. With `tiny`, an error of a tenth in
clipping, warm-up, a beta or the weight decay exceeds the tolerance (the tests show it). With fewer
bits the implementations round at different places: we saw up to 1.9e-2 with `tiny` in bfloat16,
1.2e-2 in float16, and 2e-4 with `quick`. The tolerance for fewer bits still finds a wrong learning
rate, but only float32 proves equal work.

**Peak.** The speed of products of large matrices, measured once per round: on the CPU the product
of NumPy, 1024 x 1024, on the same number of threads, and on a GPU the product of cuBLAS, 8192 x
8192, in the same precision (gpu.py).

**Operations.** A multiplication and an addition count as 2. A weight of a matrix product counts 6
per token (2 forward, 4 backward). Norms and the lookup in the token table count 0. Attention counts
6 (T + 1) D per token and layer: three times the unmasked half of the two forward products.
Recomputed operations count once.
"""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from minimtp import machine
from minimtp.arguments import whole
from minimtp.backend import Device, choose_device, empty_gpu_pool
from minimtp.backend import numpy as np
from minimtp.bench import gpu
from minimtp.bench.json_lines import hand_over, indented, result_file
from minimtp.bench.training.implementations import BASELINES, EXTRA_TOKENS, OTHERS, OURS
from minimtp.bench.training.report import table
from minimtp.bench.training.worker import UNCOUNTED, Round, Worker, start_workers
from minimtp.engine.precision import require
from minimtp.errors import MeasurementFailed, UserError
from minimtp.files import check_file
from minimtp.machine import available_cores
from minimtp.training import presets
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.recipe import Recipe

RESULT = result_file("train")
CHECKED_STEPS = 20
# Relative to the loss; see this file's docstring.
TOLERANCES = {"float32": 1e-4, "tf32": 5e-2, "float16": 5e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Plan:
    """The plan of a measurement: `rounds` rounds of `steps` counted steps."""

    recipe: Recipe
    text: Corpus
    device: Device
    threads: int
    steps: int
    rounds: int

    def batches(self, first: int, count: int) -> list[np.ndarray]:
        """Return the batches (B, T + 1 + EXTRA_TOKENS) of `count` steps from step `first` on."""
        recipe = self.recipe
        return [
            self.text.batch(
                step,
                seed=recipe.seed,
                batch_size=recipe.batch_size,
                sequence_length=recipe.context_length,
                depth=EXTRA_TOKENS,
            )
            for step in range(first, first + count)
        ]

    def batches_of_round(self, number: int) -> list[np.ndarray]:
        count = UNCOUNTED[self.device.name] + self.steps
        return self.batches(CHECKED_STEPS + number * count, count)


@dataclass
class Measured:
    """The raw measurements, by name of the implementation."""

    losses: dict[str, list[float]]  # losses of the checked steps
    max_difference: float | None
    rounds: dict[str, list[Round]]
    peaks: list[float]  # GFLOP/s


def measure_training(
    preset: str = "quick",
    *,
    device: str = "cpu",
    precision: str = "float32",
    steps: int = 20,
    rounds: int = 5,
    threads: int | None = None,
    kernel_choice: str | None = None,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure `rounds` rounds of `steps` training steps per implementation and return the result.

    threads: per implementation, on the CPU only. out: a file name for the result as JSON.
    Raises UserError if an option is invalid, MeasurementFailed if the losses of two implementations
    differ.
    """
    plan = _plan(preset, device, precision, steps, rounds, threads)
    if out is not None:
        check_file(out, RESULT)
    load = machine.load()
    with ExitStack() as stack:
        name = plan.device.name
        workers, missing = start_workers(plan.recipe, plan.threads, name, kernel_choice, stack)
        report(_introduction(preset, plan))
        machine.warn_if_busy(load, report)
        measured = _measure(workers, plan)
        abouts = {name: worker.about for name, worker in workers.items()}
    result = _result(preset, plan, measured, abouts, missing, load)
    hand_over(result, table, out, RESULT, report, encode=indented)
    return result


def _plan(
    preset: str, device: str, precision: str, steps: int, rounds: int, threads: int | None
) -> Plan:
    """Check the options. Raises UserError if one is invalid."""
    if device != "cpu" and threads is not None:
        raise UserError("--threads is for the CPU only: leave it out, or measure with --device cpu")
    threads = (available_cores() if device == "cpu" else 1) if threads is None else threads
    whole(1, 10_000)("steps", steps)
    whole(1, 1_000)("rounds", rounds)
    whole(1, available_cores())("threads", threads)
    chosen = choose_device(device)
    recipe = presets.preset(preset, precision=precision)
    require(precision, chosen)
    needed_steps = CHECKED_STEPS + rounds * (UNCOUNTED[chosen.name] + steps)
    needed = needed_steps * recipe.tokens_per_step
    # The schedule must not end before the measurement does.
    recipe = replace(recipe, tokens=max(recipe.tokens, needed))
    text = open_corpus()
    text.require(recipe.batch_size, recipe.context_length, 0)
    return Plan(recipe, text, chosen, threads, steps, rounds)


def _introduction(preset: str, plan: Plan) -> str:
    where = f"{plan.recipe.precision}, {plan.threads} thread{'s' * (plan.threads > 1)}"
    if plan.device.name != "cpu":
        where = f"{plan.recipe.precision}, {plan.device.reason}"
    recipe = plan.recipe
    return (
        f"{preset}: {recipe.trunk_parameters():,} parameters, {recipe.batch_size} x "
        f"{recipe.context_length} tokens per step, {plan.rounds} alternating rounds of "
        f"{plan.steps} steps per implementation, {where}"
    )


def _measure(workers: dict[str, Worker], plan: Plan) -> Measured:
    losses: dict[str, list[float]] = {}
    rounds: dict[str, list[Round]] = {name: [] for name in workers}
    peaks = []
    total = (plan.rounds + 1) * len(workers)
    with tqdm(total=total, unit="round", disable=None, file=sys.stderr) as bar:
        for name, worker in workers.items():
            losses[name] = worker.run(plan.batches(0, CHECKED_STEPS)).losses
            bar.update()
        difference = max_difference(losses, plan.recipe.precision)
        for number in range(plan.rounds):
            batches = plan.batches_of_round(number)
            for name in list(workers)[:: -1 if number % 2 else 1]:
                rounds[name].append(workers[name].run(batches, UNCOUNTED[plan.device.name]))
                bar.update()
            peaks.append(_peak(plan))
    return Measured(losses, difference, rounds, peaks)


def _peak(plan: Plan) -> float:
    """Return the GFLOP/s of products of large matrices."""
    if plan.device.name == "cpu":
        return machine.sgemm_gflops(plan.threads)
    peak = gpu.matrix_gflops(plan.device, plan.recipe.precision)
    empty_gpu_pool()
    return peak


def _result(
    preset: str,
    plan: Plan,
    measured: Measured,
    abouts: dict[str, dict[str, object]],
    missing: dict[str, str],
    load: float | None,
) -> dict[str, object]:
    """Return the result in its saved form."""
    on_cpu, tokens = plan.device.name == "cpu", plan.steps * plan.recipe.tokens_per_step
    peak, per_token = statistics.median(measured.peaks), operations_per_token(plan.recipe)
    rates, implementations = {}, {}
    for name, rounds in measured.rounds.items():
        rates[name] = [tokens / (r.device_seconds or r.seconds) for r in rounds]
        implementations[name] = abouts[name] | _spread(rates[name], per_token, peak)
        if not on_cpu:
            by_host = statistics.median(tokens / r.seconds for r in rounds)
            implementations[name]["tokens_per_second_by_host"] = by_host
    precision, versions = plan.recipe.precision, {}
    for about in abouts.values():
        versions |= about["versions"]
    return {
        "measurement": "train", "preset": preset, "recipe": plan.recipe.to_dict(),
        "parameters": plan.recipe.trunk_parameters(),
        "tokens_per_step": plan.recipe.tokens_per_step,
        "steps": plan.steps, "rounds": plan.rounds, "threads": plan.threads,
        "device": plan.device.name, "precision": precision, "operations_per_token": per_token,
        "sgemm_gflops" if on_cpu else "matrix_gflops": peak, "implementations": implementations,
        "missing": missing,
        "ratios": {name: _ratio(rates[OURS], rates[name]) for name in OTHERS if name in rates},
        "learned_steps": _ratio(rates["qat"], rates["learned"]),
        "losses": {"steps": CHECKED_STEPS, "tolerance": TOLERANCES[precision],
                   "max_difference": measured.max_difference, **measured.losses},
        "machine": machine.describe(load, plan.device.name), "versions": versions,
        "corpus": plan.text.to_dict(),
    }  # fmt: skip


def operations_per_token(recipe: Recipe) -> int:
    """Return the floating-point operations per token of a training step, as counted in this file's
    docstring.
    """
    norms = (2 * recipe.num_layers + 1) * recipe.hidden_size
    lookup = 0 if recipe.tied_embeddings else recipe.vocabulary_size * recipe.hidden_size
    # The mean over positions of 2 D operations per token attended to.
    attention = recipe.num_layers * recipe.hidden_size * (recipe.context_length + 1)
    return 6 * (recipe.trunk_parameters() - norms - lookup) + 6 * attention


def max_difference(
    losses: Mapping[str, Sequence[float]], precision: str = "float32"
) -> float | None:
    """Return the largest difference between minimtp's losses and the baselines', relative to the
    loss.

    None without a baseline. Raises MeasurementFailed if it exceeds the tolerance.
    """
    names = [name for name in BASELINES["cpu"] | BASELINES["cuda"] if name in losses]
    if not names:
        return None
    baselines = np.asarray([losses[name] for name in names])
    tolerance = TOLERANCES[precision]
    difference = float((np.abs(np.asarray(losses[OURS]) - baselines) / np.abs(baselines)).max())
    if not difference <= tolerance:  # also if it is NaN
        raise MeasurementFailed(
            f"the losses of the implementations differ by {difference:.2g} of the loss, more than "
            f"the tolerance of {tolerance:g}: they do not train the same model\n{losses}"
        )
    return difference


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return the median and range of the ratios of neighbouring rounds."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def _spread(rates: Sequence[float], operations: int, peak: float) -> dict[str, object]:
    median = statistics.median(rates)
    gflops = median * operations / 1e9
    return {
        "tokens_per_second": median, "slowest": min(rates), "fastest": max(rates),
        "gflops": gflops, "share_of_peak": gflops / peak, "tokens_per_second_by_round": rates,
    }  # fmt: skip
