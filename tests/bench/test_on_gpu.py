"""`minimtp bench ... --device cuda` saves and prints its results. Speeds are not tested."""

import importlib.util
import json

import pytest

from minimtp.backend import choose_device, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.bench import gpu
from minimtp.bench.decode import report as decode_report
from minimtp.bench.decode import weight_formats as formats
from minimtp.bench.kernels import report as kernels_report
from minimtp.bench.kernels import speed as bench_kernels
from minimtp.bench.kernels import speed_on_gpu as kernels_cuda
from minimtp.bench.training.implementations import Minimtp
from minimtp.bench.training.worker import run_round
from minimtp.cli import main
from minimtp.engine.module import map_parameters
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.training import presets
from minimtp.training.build import build_model
from minimtp.training.recipe import PRECISIONS
from tests.helpers.tolerances import COMPARISONS, assert_close

pytestmark = pytest.mark.usefixtures("cuda_sources")


@pytest.fixture
def small(monkeypatch):
    """Use sizes that the stand-in computes in seconds."""
    monkeypatch.setattr(gpu, "TIMES", 1)
    monkeypatch.setattr(gpu, "SIDE", 32)
    monkeypatch.setattr(kernels_cuda, "CALLS", 1)
    monkeypatch.setattr(kernels_cuda, "ROWS", (1, 2, 4, 8, 16))
    monkeypatch.setattr(bench_kernels, "SHAPES", ((32, 32),))


@pytest.mark.slow  # the stand-in runs the kernels thread by thread
def test_gpu_products_are_compared_with_copying_and_a_missing_pytorch_is_reported(
    device, small, tmp_path, monkeypatch, capsys
):
    if (
        device.xp.__name__ != "cupy"
    ):  # PyTorch cannot use the stand-in, even if it can use a real GPU
        monkeypatch.setattr(kernels_cuda, "_missing", lambda: {"PyTorch": "is left out"})
    out = tmp_path / "kernels.json"
    assert main(["bench", "kernels", "--device", "cuda", "--rounds", "1", "--out", str(out)]) == 0
    said, result = capsys.readouterr().out, json.loads(out.read_text())
    assert (
        result["device"] == "cuda"
        and result["machine"]["processor"] in choose_device("cuda").reason
    )
    assert "of copy" in said and "products of large matrices in TFLOP/s: float32" in said
    formats = [p["format"] for p in result["products"] if p["outputs"] == 32]
    baselines = [] if result["missing"] else list(kernels_cuda.TORCH)
    assert formats == [*kernels_cuda.OURS, *baselines]
    assert set(result["matrix_gflops"]) == set(PRECISIONS)
    for p in result["products"]:
        assert p["c"]["1"] == 1 and set(p["c"]) == {"1", "2", "4", "8", "16"}
        assert p["share_of_read"] == pytest.approx(
            p["gigabytes_per_second"] / p["read_gigabytes_per_second"]
        )
    if device.xp.__name__ != "cupy":
        assert "PyTorch" in result["missing"] and "PyTorch" in said
    assert (tmp_path / "kernels.png").exists() == (
        importlib.util.find_spec("matplotlib") is not None
    )
    assert kernels_report.readme(result).count("|") > 50


def test_the_training_bench_trains_on_the_gpu_and_reads_the_time_from_the_gpu(device):
    recipe = presets.preset("tiny")
    rng = np.random.default_rng(0)
    batches = [
        rng.integers(0, 256, (recipe.batch_size, recipe.context_length + 1)) for _ in range(3)
    ]
    here, there = (run_round(Minimtp(recipe, 1, name), batches, 1) for name in ("cpu", "cuda"))
    assert here.device_seconds is None and there.device_seconds > 0
    assert len(there.losses) == len(batches) - 1
    assert_close(np.array(there.losses), here.losses, COMPARISONS["loss, float32"])


def test_a_forward_pass_over_one_token_is_compared_with_the_copy_bandwidth(
    device, small, monkeypatch
):
    monkeypatch.setattr(formats, "CALLS", 2)
    recipe = presets.preset("tiny", heads="token_conditioned", draft_depth=2)
    model = build_model(recipe, np.random.default_rng(0))
    map_parameters(model, lambda array: to_device(array, device))
    forms = [
        formats.deployed(name, round_to_nearest(model, spec))
        for name, spec in formats.ROUNDED.items()
    ]
    half = formats.deployed("fp16", round_to_nearest(model, formats.HALF))
    full = formats.deployed("fp32", model)
    assert (
        half.bytes_per_pass < 0.51 * full.bytes_per_pass
        and half.bytes_per_pass > forms[0].bytes_per_pass
    )
    text = np.arange(9)
    result = formats.passes([half, *forms], text, choose_device("cuda"))
    assert [*result["passes"]] == ["fp16", "int8", "int4"] and result["cached_tokens"] == len(text)
    for form in (half, *forms):
        one_pass = result["passes"][form.name]
        assert one_pass["microseconds"] > 0 and one_pass["share_of_copy"] > 0
        assert one_pass["bytes"] > form.bytes_per_pass, (
            "the cached keys and values must be counted, too"
        )
        assert form.target.length == 0
    row = {"temperature": 0.0, "tokens_per_second": 10.0, "speedup": 2.0, "weight_bytes": 7}
    rows = [row | {"name": name} for name in ("fp16", "int8", "int4")]
    shown = result | {"missing": {"PyTorch": "is not installed"}, "rows": rows}
    table = decode_report.formats_table({"formats": shown})
    assert "of copy" in table and "PyTorch" in table


def test_copies_of_weights_alternate_only_if_the_weights_exceed_the_cache(device):
    cache = gpu.cache_bytes(device.xp)
    assert kernels_cuda._copies(device, cache // 4) == 1
    for size in (cache // 4 + 1, cache, 5 * cache):
        copies = kernels_cuda._copies(device, size)
        assert copies * size >= gpu.CACHES * cache > (copies - 1) * size


def test_the_measured_device_time_is_divided_by_the_number_of_calls(device):
    x, y = device.xp.zeros(1 << 12, np.float32), device.xp.zeros(1 << 12, np.float32)

    def write():
        y[...] = x + 1

    assert 0 < gpu.seconds(device.xp, [write, write], times=3) < 1
    assert float(y[0]) == 1  # it has run and was not only recorded


def test_calls_that_cannot_be_recorded_are_timed_as_separate_launches(device):
    reads = lambda: float(device.xp.zeros(1)[0])  # noqa: E731  (a read of the device cannot be recorded)
    assert gpu.seconds(device.xp, [reads], times=2) > 0


def test_the_values_of_noise_are_spread_evenly_over_their_range(device):
    x = to_numpy(gpu.noise(device.xp, 64, 48))
    assert x.shape == (64, 48) and x.dtype == np.float32
    assert -0.5 <= x.min() < -0.45 and 0.45 < x.max() <= 0.5 and abs(x.mean()) < 0.02
