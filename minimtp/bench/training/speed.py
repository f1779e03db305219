"""How fast minimtp is beside others, measured so that the comparison can be trusted: `minimtp bench
train`.

Training the preset's standard model, in minimtp and in PyTorch on the same device
(bench/training/implementations.py): on the CPU with the same threads, eager and compiled; on a GPU
in the same precision, eager and with whole steps recorded as a CUDA graph. And in minimtp through
the rounding to 4 bits, and with heads for three more tokens, for what those cost.

**In turn.** A shared machine drifts, and several libraries in one process disturb each other. So
each side lives in a process of its own, which sleeps until it is sent the batches of a round; a
round is some training steps, and the sides take turns, round by round, each beginning every other
time. A speed is the median over the rounds, given with its range; the ratio is the median of the
ratios of rounds that lay side by side. Cutting the batches is not counted, bringing them to a GPU
is. A busy machine is told of, for it hurts unequally: PyTorch's threads spin until all have
arrived, so with two of them and one core taken by other work it was 8 to 80 times slower than with
one.

**The clock** is the host's on the CPU. On a GPU it is the device's own, from an event before the
round to one after it, with all the time in which it had nothing to do; the host's clock stands
beside it.

**Equal work.** All start from the same weights and see the same batches. The first 20 steps warm up
and compile, are not counted, and the losses of the sides that train the same must agree. In float32
within 1e-4 of the loss: it is rounded to 1e-7 of itself, sums in another order differ by one or two
of those, and every step of training multiplies the difference: 6e-7 was seen with `quick`, 4e-5
with `laptop`. With `tiny` a clipping, a warm-up, a beta or a weight decay wrong by a tenth makes
more than is allowed, as the tests show. With fewer bits the sides round at other places: up to
1.9e-2 apart were seen with `tiny` in bfloat16, 1.2e-2 in float16, 2e-4 with `quick`; what is
allowed there still finds a wrong learning rate, but the proof of equal work is float32.

**The peak** is what products of large matrices reach, once a round, between the others: on the CPU
NumPy's, of 1024 x 1024, on as many threads; on a GPU cuBLAS's, of 8192 x 8192, in the same
precision (gpu.py).

**Counted** as operations, 2 for a multiplication and an addition: 6 for each token and weight of a
product (2 forward, 4 backward; norms and the table's look-up are none), and for attention 6 (T + 1)
D a token and layer, three times the forward's two products of which the mask leaves one half.
Nothing is counted twice for being computed twice.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from minimtp import machine
from minimtp.backend import Device, choose_device, empty_gpu_pool
from minimtp.backend import numpy as np
from minimtp.bench import gpu
from minimtp.bench.training.implementations import (
    AHEAD,
    OTHERS,
    OURS,
    PEERS,
    UNCOUNTED,
    Round,
    Worker,
    started,
)
from minimtp.bench.training.report import table
from minimtp.engine.precision import require
from minimtp.errors import MeasurementFailed, UserError
from minimtp.files import make_folder, write_text
from minimtp.machine import available_cores
from minimtp.training import presets
from minimtp.training.data.corpus import open_corpus
from minimtp.training.recipe import Recipe

CHECKED_STEPS = 20
TOLERANCES = {
    "float32": 1e-4,
    "tf32": 5e-2,
    "float16": 5e-2,
    "bfloat16": 5e-2,
}  # of the loss; see the top of this file


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
    """Measure `rounds` rounds of `steps` training steps a side, and return (with `out`, also write)
    what was found.

    threads: of each side, on the CPU only. Raises UserError for what cannot be used, and
    MeasurementFailed when the losses of two sides differ.
    """
    if device != "cpu" and threads is not None:
        raise UserError("threads are the CPU's: leave --threads out, or measure --device cpu")
    threads = (available_cores() if device == "cpu" else 1) if threads is None else threads
    for name, value, most in (
        ("steps", steps, 10_000),
        ("rounds", rounds, 1_000),
        ("threads", threads, available_cores()),
    ):
        if not 1 <= value <= most:
            raise UserError(f"{name} must be at least 1 and at most {most}, not {value}")
    if out is not None and Path(out).is_dir():
        raise UserError(f"{out} is a folder: give --out the name of a file")
    chosen, recipe = choose_device(device), presets.preset(preset, precision=precision)
    require(precision, chosen)
    uncounted = UNCOUNTED[chosen.name]
    per_step, needed = (
        recipe.batch_size * recipe.context_length,
        CHECKED_STEPS + rounds * (uncounted + steps),
    )
    recipe = replace(
        recipe, tokens=max(recipe.tokens, needed * per_step)
    )  # the schedule does not end before we do
    load = machine.load()
    text = open_corpus()
    text.require(recipe.batch_size, recipe.context_length, 0)
    if out is not None:
        make_folder(Path(out).parent)

    def batches(first: int, count: int) -> list[np.ndarray]:
        numbers = range(first, first + count)
        return [
            text.batch(
                i,
                seed=recipe.seed,
                batch_size=recipe.batch_size,
                context_length=recipe.context_length,
                depth=AHEAD,
            )
            for i in numbers
        ]

    with ExitStack() as stack:
        workers, missing = started(recipe, threads, chosen.name, kernel_choice, stack)
        where = (
            f"{threads} thread{'s' * (threads > 1)}"
            if chosen.name == "cpu"
            else f"{precision}, {chosen.reason}"
        )
        report(
            f"{preset}: {recipe.trunk_parameters():,} parameters, {recipe.batch_size} x {recipe.context_length} tokens a step, "
            f"{rounds} rounds of {steps} steps a side, in turn, {where}"
        )
        machine.warn_if_busy(load, report)
        losses, difference, played, peaks = _take_turns(
            workers, batches, steps, rounds, threads, chosen, precision
        )
        abouts = {name: worker.about for name, worker in workers.items()}

    rates = {
        name: [steps * per_step / (r.device_seconds or r.seconds) for r in found]
        for name, found in played.items()
    }
    per_token, peak = operations_per_token(recipe), statistics.median(peaks)
    sides = {name: about | _spread(rates[name], per_token, peak) for name, about in abouts.items()}
    if chosen.name != "cpu":
        for name, side in sides.items():
            side["tokens_per_second_by_host"] = statistics.median(
                steps * per_step / r.seconds for r in played[name]
            )
    result = {
        "measurement": "train", "preset": preset, "recipe": recipe.to_dict(), "parameters": recipe.trunk_parameters(),
        "tokens_per_step": per_step, "steps": steps, "rounds": rounds, "threads": threads, "device": chosen.name,
        "precision": precision, "operations_per_token": per_token,
        "sgemm_gflops" if chosen.name == "cpu" else "matrix_gflops": peak, "sides": sides, "missing": missing,
        "ratios": {name: _ratio(rates[OURS], rates[name]) for name in OTHERS if name in rates},
        "losses": {"steps": CHECKED_STEPS, "tolerance": TOLERANCES[precision], "largest_difference": difference, **losses},
        "machine": machine.describe(load, chosen.name),
        "versions": {library: version for about in abouts.values() for library, version in about["versions"].items()},
        "corpus": text.to_dict(),
    }  # fmt: skip
    if out is not None:
        write_text(Path(out), json.dumps(result, indent=2) + "\n")
    report(table(result))
    if out is not None:
        report(f"saved {out}")
    return result


def _take_turns(
    workers: dict[str, Worker],
    batches: Callable[[int, int], list[np.ndarray]],
    steps: int,
    rounds: int,
    threads: int,
    device: Device,
    precision: str,
) -> tuple[dict[str, list[float]], float | None, dict[str, list[Round]], list[float]]:
    """(the first losses of each side, their largest difference, each of its rounds, the peak's
    GFLOP/s)."""
    losses, played, peaks, uncounted = (
        {},
        {name: [] for name in workers},
        [],
        UNCOUNTED[device.name],
    )
    with tqdm(
        total=(rounds + 1) * len(workers), unit="round", disable=None, file=sys.stderr
    ) as bar:
        for name, worker in workers.items():
            losses[name] = worker.run(batches(0, CHECKED_STEPS)).losses
            bar.update()
        difference = largest_difference(losses, precision)
        for i in range(rounds):
            work = batches(CHECKED_STEPS + i * (uncounted + steps), uncounted + steps)
            for name in list(workers)[:: -1 if i % 2 else 1]:
                played[name].append(workers[name].run(work, uncounted))
                bar.update()
            if device.name == "cpu":
                peaks.append(machine.sgemm_gflops(threads))
            else:
                peaks.append(gpu.matrix_gflops(device, precision))
                empty_gpu_pool()
    return losses, difference, played, peaks


def operations_per_token(recipe: Recipe) -> int:
    """Floating-point operations of a training step, a token; see the top of this file for what is
    counted."""
    norms = (2 * recipe.num_layers + 1) * recipe.hidden_size
    lookup = 0 if recipe.tied_embeddings else recipe.vocabulary_size * recipe.hidden_size
    attention = (
        recipe.num_layers * recipe.hidden_size * (recipe.context_length + 1)
    )  # the mean over positions of 2 D products a token seen
    return 6 * (recipe.trunk_parameters() - norms - lookup) + 6 * attention


def largest_difference(
    losses: dict[str, Sequence[float]], precision: str = "float32"
) -> float | None:
    """Between minimtp's losses and the peers', as a share of the loss; None without a peer.

    Raises MeasurementFailed beyond the tolerance.
    """
    peers = np.asarray([losses[name] for name in PEERS["cpu"] | PEERS["cuda"] if name in losses])
    if not len(peers):
        return None
    tolerance = TOLERANCES[precision]
    difference = float((np.abs(np.asarray(losses[OURS]) - peers) / np.abs(peers)).max())
    if not difference <= tolerance:  # NaN is not
        raise MeasurementFailed(f"the sides' losses differ by {difference:.2g} of the loss, and {tolerance:g} is allowed: they "
                                f"do not train the same model\n{losses}")  # fmt: skip
    return difference


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Of rounds that lay side by side."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def _spread(rates: list[float], operations: int, peak: float) -> dict[str, object]:
    median = statistics.median(rates)
    gflops = median * operations / 1e9
    return {
        "tokens_per_second": median, "slowest": min(rates), "fastest": max(rates), "gflops": gflops,
        "share_of_peak": gflops / peak, "tokens_per_second_by_round": rates,
    }  # fmt: skip
