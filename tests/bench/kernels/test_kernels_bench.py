"""`minimtp bench kernels` saves and prints results and refuses bad options."""

import importlib.util
import json
from unittest.mock import Mock

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.bench.kernels import speed as bench
from minimtp.bench.kernels.training_products import training_table
from minimtp.cli import main

needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None,
    reason="Numba is not installed, so there are no compiled kernels to measure",
)


@needs_numba
def test_the_file_holds_every_product_and_the_conditions_of_the_measurement(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    out = tmp_path / "new" / "kernels.json"
    assert main(["bench", "kernels", "--max-size", "1", "--rounds", "2", "--out", str(out)]) == 0
    said, result = capsys.readouterr().out, json.loads(out.read_text())
    assert [(p["outputs"], p["format"]) for p in result["products"]] == [
        (n, f) for n in (128, 512) for f in bench.FORMATS
    ]
    for p in result["products"]:
        assert p["c"]["1"] == 1.0
        assert set(p["c"]) == set(p["microseconds"]) == {str(rows) for rows in bench.ROWS}
        assert p["microseconds_fastest"] <= p["microseconds"]["1"] <= p["microseconds_slowest"]
        assert p["gigabytes_per_second"] == pytest.approx(p["bytes"] / p["microseconds"]["1"] / 1e3)
        assert p["share_of_read"] == pytest.approx(
            p["gigabytes_per_second"] / p["read_gigabytes_per_second"]
        )
        assert f"{p['gweights_per_second']:.1f}" in said
    sizes = {p["format"]: p["bytes"] for p in result["products"] if p["outputs"] == 512}
    assert sizes == {
        "q4_0": 512 * 512 * 18 // 32,
        "q8_0": 512 * 512 * 34 // 32,
        "f32": 4 << 18,
        "numpy": 4 << 18,
    }
    (layer,) = result["training_products"]["layers"]
    assert (layer["outputs"], layer["inputs"]) == (192, 576)  # the others exceed 1 MB
    assert list(layer["gflops"]) == ["NumPy float32", "float32", "bfloat16"]
    assert all(f"{rate:.0f} GFLOP/s" in said for rate in layer["gflops"].values())
    ratio = layer["gflops"]["bfloat16"] / layer["gflops"]["NumPy float32"]
    assert "576 -> 192" in said and f"{ratio:.2f}x" in said
    assert {"numpy", "numba", "python"} <= set(result["versions"])
    assert (tmp_path / "new" / "kernels.png").exists() == (
        importlib.util.find_spec("matplotlib") is not None
    )


@needs_numba
@pytest.mark.parametrize("format_", bench.FORMATS)
def test_the_timed_call_uses_every_weight_of_the_matrix(format_):
    product_ = bench._timed_product(format_, (96, 64))
    rng = np.random.default_rng(0)
    x, few = (
        rng.standard_normal((max(bench.ROWS), 64)).astype(np.float32),
        rng.standard_normal((32, 64)).astype(np.float32),
    )
    found = product_.call(3)
    assert found.shape == (3, 96)
    assert np.array_equal(found[:, :32], found[:, 64:])
    assert np.abs(found[:, :32] - x[:3] @ few.T).max() < (
        1e-4 if format_ in ("f32", "numpy") else 4.0
    )
    assert product_.weights == 96 * 64


@needs_numba
def test_the_reading_speed_of_reference_is_the_fastest_measured_way_to_read(monkeypatch):
    ways = {2.0: print, 0.5: repr, 3.0: str}
    monkeypatch.setattr(bench, "_readers", lambda size: tuple(ways.values()))
    monkeypatch.setattr(
        bench, "_seconds", lambda call: next((s for s, way in ways.items() if way is call), 1.0)
    )
    for found in bench._measure((96, 64), 2, lambda count: None):
        assert (
            found["share_of_read"] == 0.5
            and found["read_gigabytes_per_second"] == found["bytes"] / 0.5e9
        )


def test_every_way_to_read_reads_every_byte():
    product, matrix_product, largest = bench._readers(4 * 60**2)
    assert product() == matrix_product().sum() == 60**2 and largest() == 1


def test_the_command_is_refused_without_compiled_kernels(monkeypatch, capsys):
    monkeypatch.setattr(
        kernels, "describe", lambda device="cpu": ("plain", "Numba is not installed")
    )
    assert main(["bench", "kernels"]) == 2
    assert "Numba is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-size", "0"], "max_size must be"),
        (["--rounds", "0"], "rounds must be"),
        (["--out", "."], "is a folder"),
        (["--out", "file/new/kernels.json"], "file is not a folder"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_before_anything_is_measured(
    arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kernels, "describe", lambda device: ("cpu", "of a test"))
    monkeypatch.setattr(
        bench, "_measure_all", lambda *arguments: pytest.fail("the measurement began")
    )
    assert main(["bench", "kernels", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_results_are_saved_before_their_table_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "describe", lambda device: ("cpu", "of a test"))
    monkeypatch.setattr(bench, "_measure_all", lambda *arguments: {"products": []})
    monkeypatch.setattr(bench, "table", Mock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        bench.measure_kernels(out=tmp_path / "kernels.json", report=lambda line: None)
    assert json.loads((tmp_path / "kernels.json").read_text())["measurement"] == "kernels"


def test_the_table_of_training_products_says_if_bfloat16_has_no_instructions():
    layer = {"outputs": 4, "inputs": 8, "gflops": {"NumPy float32": 100.0, "bfloat16": 150.0}}
    for has_instructions in (True, False):
        products = {
            "rows": 16, "layers": [layer], "instructions_for_bfloat16": has_instructions,
        }  # fmt: skip
        said = training_table(products)
        assert "16 rows, 8 -> 4" in said and "1.50x" in said
        assert ("no fast instructions" in said) != has_instructions
    assert training_table({"rows": 16, "layers": [], "instructions_for_bfloat16": True}) == ""
