"""The quality table: every cell is measured once, on the same tokens, and its last columns are
computed correctly."""

import json
import statistics

import pytest

from minimtp.bench.quality import cells as cells_of
from minimtp.bench.quality import measure as quality
from minimtp.bench.quality import summary
from minimtp.bench.quality.report import table
from minimtp.cli import main
from minimtp.formats.load import load
from minimtp.quant.ptq.methods import METHODS
from minimtp.training.run import checkpoint

TEXT = b"roses are red, violets are blue, sugar is sweet and so are you.\n" * 100
ROWS = 2 + len(METHODS) + 2


@pytest.fixture
def poem(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)
    (tmp_path / "poem.txt").write_bytes(TEXT)
    return ["--preset", "tiny", "--corpus", "poem.txt", "--out", "quality", "--threads", "1"]


def cell(seed, bits, method, nats):
    return {
        "seed": seed,
        "bits": bits,
        "method": method,
        "nats": nats,
        "bits_per_weight": 4.5,
        "bytes": 9,
        "seconds": 1.0,
    }


def test_every_cell_is_measured_once_even_if_the_run_is_interrupted(poem, monkeypatch, capsys):
    original, done = quality.measure_cell, []

    def stops_after_four(cell, *others):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(cell.name)
        return original(cell, *others)

    monkeypatch.setattr(quality, "measure_cell", stops_after_four)
    command = ["bench", "quality", *poem, "--bits", "3", "--seeds", "1"]
    assert main(command) == 130
    monkeypatch.setattr(
        quality,
        "measure_cell",
        lambda cell, *others: done.append(cell.name) or original(cell, *others),
    )
    assert main(command) == 0
    assert len(done) == len(set(done)) == ROWS
    assert main(command) == 0 and len(done) == ROWS  # nothing is measured again
    assert "rows      9; 9 are measured already" in capsys.readouterr().out
    result = json.loads(open("quality/quality.json").read())
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == ["fp", "fp + distillation", *METHODS, "qat", "qat + distillation"]
    assert rows["fp"]["loss"] == 0 and rows["fp"]["bits_per_weight"] == 32
    assert all(
        3.5 < rows[method]["bits_per_weight"] < 8.5
        for method in rows
        if not method.startswith("fp")
    )
    assert {"processor", "cores"} <= result["machine"].keys() and result["corpus"]["fingerprint"]
    runs = [
        load(f"quality/seed0/{name}")
        for name in ("fp", "fp+distillation", "qat3", "qat+distillation3")
    ]
    assert (
        len({run.step for run in runs}) == len({run.tokens for run in runs}) == 1
    )  # the same tokens
    assert [run.fake_quantized for run in runs] == [False, False, True, True]
    stem = checkpoint.read("quality/seed0/stem")
    assert stem.step == runs[2].recipe.first_quantized_step
    assert (
        main([*command[:-1], "2", "--bits", "4"]) == 0
    )  # more seeds and other bit widths, from the same trained model
    assert len(done) == 3 * ROWS - 2


def test_super_blocks_are_measured_if_rows_consist_of_whole_ones():
    assert (4, cells_of.SUPERBLOCKS) in cells_of.table_rows(cells_of.RECIPES["quick"], (4,))
    assert (4, cells_of.SUPERBLOCKS) not in cells_of.table_rows(cells_of.RECIPES["tiny"], (4,))


def test_at_8_bits_only_the_control_is_trained():
    assert cells_of.table_rows(cells_of.RECIPES["quick"], (8,)) == [
        (32, "fp"),
        *((8, method) for method in METHODS),
    ]


def test_losses_are_relative_to_the_control_of_the_same_seed_and_recovery_uses_means():
    cells = [cell(seed, 32, "fp", 2.0 + seed) for seed in range(3)]
    cells += [cell(seed, 4, "rtn", 2.0 + seed + loss) for seed, loss in enumerate((0.2, 0.4, 0.3))]
    cells += [cell(seed, 4, "qat", 2.0 + seed + loss) for seed, loss in enumerate((0.0, 0.1, 0.05))]
    control, rounded, trained = summary.summary(cells)
    assert control["loss"] == 0 and "recovered" not in control
    assert rounded["losses"] == pytest.approx([0.2, 0.4, 0.3]) and rounded["recovered"] == 0
    assert trained["recovered"] == pytest.approx((0.3 - 0.05) / 0.3)
    expected = 4.303 * statistics.stdev([0.2, 0.4, 0.3]) / 3**0.5
    assert rounded["interval"] == pytest.approx(expected)


def test_a_single_seed_has_no_interval_and_recovery_is_undefined_without_a_loss():
    rows = summary.summary(
        [cell(0, 32, "fp", 2.0), cell(0, 8, "rtn", 1.99), cell(0, 8, "gptq", 2.0)]
    )
    assert [row["interval"] for row in rows] == [None] * 3
    assert rows[1]["recovered"] is rows[2]["recovered"] is None
    printed = table(rows).splitlines()
    assert (
        len(printed) == 4
        and "-0.0100" in printed[2]
        and "±" not in printed[2]
        and "%" not in printed[3]
    )


def test_the_stored_quantiles_are_the_quantiles_of_students_t_distribution():
    """For n degrees of freedom, 97.5 % of the integral of the density lies below the quantile."""
    for n, quantile in enumerate(summary.STUDENT, start=1):
        points = [quantile * i / 4000 for i in range(4001)]
        density = [(1 + x * x / n) ** (-(n + 1) / 2) for x in points]
        inside = quantile / 4000 * (sum(density) - (density[0] + density[-1]) / 2)
        gamma = {1: 3.141592653589793, 2: 2 * 2**0.5}
        whole = (
            gamma[1] if n % 2 else gamma[2]
        )  # the integral of the density, by its recurrence in n
        for m in range(1 if n % 2 else 2, n, 2):
            whole *= m / (m + 1) * ((m + 2) / m) ** 0.5
        assert inside / whole == pytest.approx(0.475, abs=1e-4), n


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "5"], "bits must be among 8, 4, 3, 2, not 5"),
        (["--bits", "4,4"], "none twice"),
        (["--bits", "four"], "not a number"),
        (["--seeds", "0"], "seeds must be a whole number from 1 to 10, not 0"),
        (["--preset", "laptop"], "preset must be one of tiny, quick"),
        (["--corpus", "missing.txt"], "missing.txt"),
    ],
    ids=str,
)
def test_a_bad_option_is_refused_before_a_file_is_written(poem, options, words, capsys, tmp_path):
    assert main(["bench", "quality", *poem, *options]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "quality").exists()


def test_a_file_of_another_measurement_or_a_damaged_file_is_not_overwritten(poem, capsys, tmp_path):
    folder = tmp_path / "quality"
    folder.mkdir()
    for text, words in (
        ('{"measurement": "quality"}', "cells is missing"),
        ("no json", "not valid"),
    ):
        (folder / "quality.json").write_text(text)
        assert main(["bench", "quality", *poem]) == 2
        assert words in capsys.readouterr().err and (folder / "quality.json").read_text() == text
    (folder / "quality.json").write_text(
        json.dumps(
            {"measurement": "quality", "preset": "quick", "recipe": {}, "corpus": {}, "cells": {}}
        )
    )
    assert main(["bench", "quality", *poem]) == 2
    assert "a measurement with another preset and recipe and corpus" in capsys.readouterr().err
