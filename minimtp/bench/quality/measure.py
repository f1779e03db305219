"""What rounding costs and what wins it back, method by method and bit by bit: `minimtp bench
quality`.

For every seed one stem is trained in full precision up to the decay of the learning rate, and
branches from there:

    fp                 the decay in full precision. The control: every branch has seen the same tokens
    fp + distillation  the decay once more, half of the loss following fp's probabilities: what distillation alone gives
    rtn .. gptq        the control, rounded after training (quant/ptq/methods.py); at 4 bits also on the grid q4_k
    qat                the decay through the rounding, groups' steps learned too (quant/qat/modules.py, quant/qat/learned.py)
    qat + distillation the same, half of the loss following the control's probabilities instead of the text

Starting the rounding with the decay is what costs least (arXiv 2509.22935). A branch differs from
the control in its rounding and in nothing else, so what is counted is its loss minus the control's
of the same seed, on the same held-out text. Products see int8 activations in every row but the two
of fp; the token table is q8_0 in all of them. At 8 bits there is nothing to win back, and nothing
is trained.

**Recovered** is the share of round-to-nearest's loss that is gone: (rtn - method) / (rtn - fp),
means over the seeds. Intervals are 95 % over seeds (Student's t), so they say what another seed
would change, not what another text would. **Bits per weight** are those of the file: scales, table
and norms included.

Everything that is finished stays in the folder: after an interruption the same command goes on
where it was.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minimtp import machine
from minimtp.bench.quality.report import draw, table
from minimtp.engine.module import weight_bytes
from minimtp.errors import UserError
from minimtp.files import make_folder, write_text
from minimtp.formats.load import load
from minimtp.machine import available_cores
from minimtp.quant.packed import bits_per_weight
from minimtp.quant.ptq.methods import METHODS, quantize_after_training
from minimtp.quant.qat.modules import QuantizationSpec, convert
from minimtp.training import presets
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.evaluate import evaluate_model
from minimtp.training.quantize import calibration_batches
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LoadedRun, started
from minimtp.training.run.interrupt import Interrupted
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.schedule import decay_start

FILE_NAME, PICTURE_NAME = "quality.json", "quality.png"
GRIDS = {8: "q8_0", 4: "q4_0", 3: "int3-ggml-signed-g32", 2: "int2-ggml-signed-g32"}
FP, FP_DISTILLED, QAT, QAT_DISTILLED = "fp", "fp + distillation", "qat", "qat + distillation"
SUPERBLOCKS = "importance, q4_k"
DISTILL_WEIGHT = 0.5
TRAINED_BELOW = 8  # bits
SUPERBLOCK_BITS, SUPERBLOCK = 4, 256
RECIPES = {
    "tiny": presets.preset("tiny"),
    # `quick` as two wide layers, so that all rows are whole super-blocks of 256
    "quick": presets.preset(
        "quick",
        hidden_size=256,
        num_layers=2,
        intermediate_size=512,
        tokens=600_000,
        learning_rate=1.5e-3,
        evaluation_tokens=262_144,
    ),
}
# 97.5 % quantiles of Student's t by degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Cell:
    """One number of the table: a method at some bits, from one seed."""

    seed: int
    bits: int
    method: str

    @property
    def name(self) -> str:
        return f"{self.method} at {self.bits} bits, seed {self.seed}"


def measure_quality(
    bits: Sequence[int] = tuple(GRIDS),
    seeds: int = 3,
    preset: str = "quick",
    out: str | Path | None = None,
    *,
    corpus: Sequence[str | Path] = (),
    threads: int | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure what is not measured yet in the folder `out`, and return what quality.json holds.

    Raises UserError for what cannot be used or written, KeyboardInterrupt when the user stops it.
    """
    check(bits, seeds, preset)
    recipe, text = RECIPES[preset], open_corpus(corpus)
    text.require(recipe.batch_size, recipe.context_length, 0)
    out = make_folder(out or Path("runs", f"quality-{preset}"))
    setting = {
        "measurement": "quality",
        "preset": preset,
        "recipe": recipe.to_dict(),
        "corpus": text.to_dict(),
    }
    cells = _finished(out, setting)
    load_before = machine.load()
    wanted = [
        Cell(seed, number, method) for seed in range(seeds) for number, method in rows(recipe, bits)
    ]
    report(f"corpus    {text.describe()}")
    report(
        f"rows      {len(wanted)}, of which {sum(cell.name in cells for cell in wanted)} are measured already, in {out}"
    )
    try:
        for cell in wanted:
            if cell.name not in cells:
                cells[cell.name] = measured(cell, recipe, text, out, threads)
                cells[cell.name] |= {"seed": cell.seed, "bits": cell.bits, "method": cell.method}
                _write(out, setting | {"cells": cells})
                report(
                    f"{cell.name}: {cells[cell.name]['nats']:.4f} nats, {cells[cell.name]['seconds']:.0f} s"
                )
    except Interrupted as stop:
        raise KeyboardInterrupt(
            f"stopped in {stop.folder}, saved; the same command goes on from there"
        ) from None
    found = [cells[cell.name] for cell in wanted]
    result = setting | {
        "seeds": seeds, "bits": list(bits), "rows": summary(found), "cells": cells,
        "machine": machine.describe(load_before), "versions": machine.versions(),
        "threads": threads or available_cores(), "seconds": sum(cell["seconds"] for cell in found),
    }  # fmt: skip
    _write(out, result)
    report(table(result["rows"]))
    picture = draw(result["rows"], out / PICTURE_NAME)
    report(f"saved {out / FILE_NAME}" + (f" and {picture}" if picture else ""))
    return result


def check(bits: Sequence[int], seeds: int, preset: str) -> None:
    """Raise UserError for numbers and names that cannot be measured."""
    if preset not in RECIPES:
        raise UserError(f"preset must be one of {', '.join(RECIPES)}, not {preset!r}")
    for number in bits:
        if number not in GRIDS:
            raise UserError(f"bits must be among {', '.join(map(str, GRIDS))}, not {number}")
    if not bits or len(set(bits)) < len(bits):
        raise UserError("bits must name at least one number, and none twice")
    if not 1 <= seeds <= len(STUDENT) + 1:
        raise UserError(f"seeds must be at least 1 and at most {len(STUDENT) + 1}, not {seeds}")


def rows(recipe: Recipe, bits: Sequence[int]) -> list[tuple[int, str]]:
    """(bits, method) of every row of the table, the control first."""
    trained = any(number < TRAINED_BELOW for number in bits)
    found = [(32, FP), *([(32, FP_DISTILLED)] if trained else [])]
    for number in bits:
        found += [(number, method) for method in METHODS]
        if (
            number == SUPERBLOCK_BITS
            and recipe.hidden_size % SUPERBLOCK == recipe.intermediate_size % SUPERBLOCK == 0
        ):
            found.append((number, SUPERBLOCKS))
        if number < TRAINED_BELOW:
            found += [(number, QAT), (number, QAT_DISTILLED)]
    return found


def measured(
    cell: Cell, recipe: Recipe, text: Corpus, out: Path, threads: int | None
) -> dict[str, object]:
    """Train or round one cell's model, and evaluate it: nats, bytes and bits of its weights,
    seconds."""
    recipe = replace(recipe, seed=cell.seed)
    folder = out / f"seed{cell.seed}"
    stem_steps = decay_start(recipe)

    def trained(
        name: str, recipe: Recipe, stop_at_step: int | None = None, **start: object
    ) -> LoadedRun:
        train(
            recipe,
            text,
            folder / name,
            Start(resume=started(folder / name), **start),
            stop_at_step=stop_at_step,
            device="cpu",
            threads=threads,
            report=lambda line: None,
        )
        return load(folder / name)

    began = time.perf_counter()
    if cell.method in (FP, FP_DISTILLED, QAT, QAT_DISTILLED):
        trained("stem", recipe, stop_at_step=stem_steps)
        began = time.perf_counter()  # the stem is everybody's
        student, branch = recipe, {"start_from": folder / "stem", "continue_schedule": True}
        if cell.method in (FP_DISTILLED, QAT_DISTILLED):
            student, branch["teacher"] = (
                replace(student, distill_weight=DISTILL_WEIGHT),
                folder / FP,
            )
        if cell.method in (QAT, QAT_DISTILLED):
            student = replace(
                student, quantization="qat", quantize_from=1.0 - recipe.decay_fraction, weight_grid=GRIDS[cell.bits],
                head_grid=GRIDS[cell.bits], weight_scales="learned",
            )  # fmt: skip
        name = cell.method.replace(" ", "") + (str(cell.bits) if cell.bits in GRIDS else "")
        model = trained(name, student, **branch).model
        if student.quantization == "qat":
            model = convert(model)
    else:
        control = load(folder / FP).model
        grid, method = (
            ("q4_k", "importance")
            if cell.method == SUPERBLOCKS
            else (GRIDS[cell.bits], cell.method)
        )
        batches = calibration_batches(text, recipe.context_length, 0)
        began = time.perf_counter()
        model = quantize_after_training(
            control, QuantizationSpec(weights=grid, heads=grid), method, batches
        )
    seconds = time.perf_counter() - began
    evaluation = evaluate_model(
        model, text, recipe.context_length, recipe.evaluation_tokens, threads
    )
    return {
        "nats": evaluation.nats[0], "bytes": weight_bytes(model), "bits_per_weight": bits_per_weight(model), "seconds": seconds
    }  # fmt: skip


def summary(cells: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of the table from the cells of all seeds: means, 95 % intervals, and the share of
    rtn's loss recovered."""
    by_row: dict[tuple[int, str], list[dict]] = {}
    for cell in cells:
        by_row.setdefault((cell["bits"], cell["method"]), []).append(cell)
    control = {cell["seed"]: cell["nats"] for cell in by_row[32, FP]}
    found = []
    for (bits, method), members in by_row.items():
        losses = [member["nats"] - control[member["seed"]] for member in members]
        row = {
            "bits": bits, "method": method, "nats": statistics.mean(member["nats"] for member in members),
            "loss": statistics.mean(losses), "interval": half_interval(losses), "losses": losses,
            "bits_per_weight": members[0]["bits_per_weight"], "bytes": members[0]["bytes"],
            "seconds": statistics.mean(member["seconds"] for member in members),
        }  # fmt: skip
        if (bits, "rtn") in by_row:
            worst = [member["nats"] - control[member["seed"]] for member in by_row[bits, "rtn"]]
            row["recovered"] = recovered(statistics.mean(worst), row["loss"])
        found.append(row)
    return found


def recovered(rounded: float, loss: float) -> float | None:
    """The share of the loss `rounded` that a method with the loss `loss` does not have; None where
    rounding cost nothing."""
    return (rounded - loss) / rounded if rounded > 0 else None


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of their mean; None for a single value."""
    if len(values) < 2:
        return None
    return STUDENT[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5


def _finished(out: Path, setting: dict[str, object]) -> dict[str, dict]:
    """The cells that were measured in this setting. Raises UserError for a damaged file and for
    another setting's."""
    path = out / FILE_NAME
    if not path.is_file():
        return {}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        different = [
            name for name, value in json.loads(json.dumps(setting)).items() if before[name] != value
        ]
        cells = dict(before["cells"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: delete it to measure again") from None
    if different:
        raise UserError(
            f"{out} holds a measurement with other {' and '.join(different)}: choose another --out, or delete it"
        )
    return cells


def _write(out: Path, result: dict[str, object]) -> None:
    write_text(out / FILE_NAME, json.dumps(result, indent=2) + "\n")
