"""Measure the quality table: `minimtp bench quality`.

Every finished cell is stored in the folder. After an interruption, the same command resumes the
measurement.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct, to_builtins

from minimtp import machine
from minimtp.arguments import whole
from minimtp.bench.json_lines import hand_over, indented, result_file
from minimtp.bench.quality.cells import GRIDS, RECIPES, Cell, measure_cell, table_rows
from minimtp.bench.quality.report import draw, table
from minimtp.bench.quality.summary import MAX_SEEDS, summary
from minimtp.errors import UserError, shown
from minimtp.files import OneWriter, check_file, check_folder, write_text
from minimtp.machine import available_cores
from minimtp.records import Count, Finite, NonNegative, Positive, check_value, parse_json, read_file
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.recipe import Recipe
from minimtp.training.run.interrupt import Interrupted

FILE_NAME = "quality.json"
RESULT = result_file("quality")
ADVICE = "delete it to measure again"


class CellRecord(Struct):
    """One cell in the file."""

    seed: Count
    bits: Positive
    method: str
    nats: Finite
    bytes: Count
    bits_per_weight: Finite
    seconds: NonNegative


class Measured(Struct):
    """quality.json, finished or not."""

    cells: dict[str, CellRecord]


def measure_quality(
    bits: Sequence[int] = tuple(GRIDS),
    seeds: int = 3,
    preset: str = "quick",
    out: str | Path | None = None,
    *,
    corpus: Sequence[str | Path] = (),
    threads: int | None = None,
    report: Callable[[str], None] = print,
    encoding: str | None = None,
) -> dict[str, object]:
    """Measure the cells whose results are not yet in the folder `out`. Return the content of
    quality.json.

    Raises UserError if an option is invalid or `out` cannot be written, KeyboardInterrupt if the
    user stops it.
    """
    check_options(bits, seeds, preset)
    recipe, out = RECIPES[preset], Path(out or Path("runs", f"quality-{preset}"))
    check_folder(out)
    text = open_corpus(corpus, encoding=encoding, out=out)
    text.require(recipe.batch_size, recipe.context_length, 0, otherwise="")
    setting = {"measurement": "quality", "preset": preset}
    setting |= {"recipe": recipe.to_dict(), "corpus": text.to_dict()}
    with OneWriter(out) as writer:
        writer.begin()
        return _measure(setting, recipe, text, bits, seeds, out, threads, report)


def _measure(
    setting: dict[str, object],
    recipe: Recipe,
    text: Corpus,
    bits: Sequence[int],
    seeds: int,
    out: Path,
    threads: int | None,
    report: Callable[[str], None],
) -> dict[str, object]:
    """Measure what is not yet in `out`. The arguments are those of `measure_quality`."""
    cells = _finished_cells(out, setting)
    check_file(out / FILE_NAME, RESULT)
    load_before = machine.load()
    rows = table_rows(recipe, bits)
    wanted = [Cell(seed, number, method) for seed in range(seeds) for number, method in rows]
    finished = sum(cell.name in cells for cell in wanted)
    report(f"corpus    {text.describe()}")
    report(f"rows      {len(wanted)}; {finished} are measured already, in {out}")
    try:
        for cell in wanted:
            if cell.name not in cells:
                result = measure_cell(cell, recipe, text, out, threads)
                result |= {"seed": cell.seed, "bits": cell.bits, "method": cell.method}
                cells[cell.name] = result
                write_text(out / FILE_NAME, indented(setting | {"cells": cells}), RESULT)
                report(f"{cell.name}: {result['nats']:.4f} nats, {result['seconds']:.0f} s")
    except Interrupted as stop:
        message = f"stopped and saved in {stop.folder}; run the same command to continue"
        raise KeyboardInterrupt(message) from None
    found = [cells[cell.name] for cell in wanted]
    result = setting | {
        "seeds": seeds, "bits": list(bits), "rows": summary(found), "cells": cells,
        "machine": machine.describe(load_before), "versions": machine.versions(),
        "threads": threads or available_cores(), "seconds": sum(cell["seconds"] for cell in found),
    }  # fmt: skip
    hand_over(result, _table, out / FILE_NAME, RESULT, report, encode=indented, draw=draw)
    return result


def _table(result: dict[str, object]) -> str:
    return table(result["rows"])


def check_options(bits: Sequence[int], seeds: int, preset: str) -> None:
    """Raise UserError if an option is out of range or unknown."""
    if preset not in RECIPES:
        raise UserError(f"preset must be one of {', '.join(RECIPES)}, not {preset!r}")
    for number in bits:
        if number not in GRIDS:
            raise UserError(f"bits must be among {', '.join(map(str, GRIDS))}, not {number}")
    if not bits or len(set(bits)) < len(bits):
        raise UserError("bits must name at least one number, and none twice")
    whole(1, MAX_SEEDS)("seeds", seeds)


def _finished_cells(out: Path, setting: dict[str, object]) -> dict[str, dict]:
    """Return the cells in `out`. Raises UserError if the file is damaged or has another setting."""
    path = out / FILE_NAME
    if not path.is_file():
        return {}
    wanted = json.loads(json.dumps(setting))
    before = parse_json(read_file(path, advice=ADVICE), path, ADVICE)
    cells = check_value(before, Measured, path, ADVICE).cells
    different = [name for name, value in wanted.items() if before.get(name) != value]
    if different:
        raise UserError(
            f"{path} holds a measurement with another {' and '.join(different)}: choose another "
            "--out, or delete it"
        )
    for name, cell in cells.items():
        if Cell(cell.seed, cell.bits, cell.method).name != name:
            raise UserError(
                f"{path}: cells.{shown(name, 60)} is the result of another cell: {ADVICE}"
            )
    return {name: to_builtins(cell) for name, cell in cells.items()}
