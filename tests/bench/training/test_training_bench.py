"""`bench train`: both implementations do equal work, unequal work is detected, and the file is
complete."""

import importlib.util
import json
import pickle
import re
import shutil
from dataclasses import replace
from unittest.mock import Mock

import pytest

from minimtp import machine
from minimtp.backend import numpy as np
from minimtp.bench.baselines.pytorch.training import CompiledTorchTrainer, TorchTrainer
from minimtp.bench.training import speed as bench
from minimtp.bench.training import worker as workers
from minimtp.bench.training.implementations import Minimtp
from minimtp.cli import main
from minimtp.engine.flat import parameter_count
from minimtp.errors import MeasurementFailed
from minimtp.training.build import build_model
from minimtp.training.presets import preset

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch (torch) is not installed"
)
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile needs a C++ compiler"
)
QUICK = ["bench", "train", "--preset", "tiny", "--steps", "2", "--rounds", "2", "--threads", "1"]


def first_losses(implementation, recipe):
    rng = np.random.default_rng(3)
    shape = (bench.CHECKED_STEPS, recipe.batch_size, recipe.context_length + 1)
    rows = np.cumsum(rng.integers(0, 3, shape), axis=-1) % 50  # text that can be learned
    return implementation.run(list(rows))


@pytest.fixture(scope="module")
def ours():
    recipe = preset("tiny")
    return first_losses(Minimtp(recipe, 1), recipe)


@needs_torch
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied_embeddings": False},
        {"num_kv_heads": 2},
        {"max_gradient_norm": 0.0, "num_layers": 2},
    ],
    ids=str,
)
def test_minimtp_and_pytorch_train_the_same_model(changes):
    recipe = replace(preset("tiny"), **changes)
    ours, theirs = (first_losses(kind(recipe, 1), recipe) for kind in (Minimtp, TorchTrainer))
    assert ours[0] > ours[-1] + 0.5
    assert bench.max_difference({"minimtp": ours, "torch": theirs}) <= bench.TOLERANCES["float32"]


@needs_torch
@pytest.mark.parametrize(
    "changes",
    [
        {"max_gradient_norm": 0.0},
        {"weight_decay": 0.09},
        {"beta2": 0.96},
        {"warmup_fraction": 0.04},
    ],
    ids=str,
)
def test_a_baseline_trained_with_another_setting_is_detected(ours, changes):
    recipe = replace(preset("tiny"), **changes)
    with pytest.raises(MeasurementFailed, match="do not train the same model"):
        bench.max_difference(
            {"minimtp": ours, "torch": first_losses(TorchTrainer(recipe, 1), recipe)}
        )


@needs_torch
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_baseline_in_16_bits_trains_the_same_model_within_its_tolerance(ours, precision):
    theirs = first_losses(
        TorchTrainer(replace(preset("tiny"), precision=precision), 1), preset("tiny")
    )
    assert theirs != ours
    assert (
        bench.max_difference({"minimtp": ours, "torch": theirs}, precision)
        > bench.TOLERANCES["float32"] / 10
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "float16"], "precision float16 needs a GPU"),
        (["--device", "cuda", "--threads", "1"], "--threads is for the CPU only"),
    ],
    ids=str,
)
def test_an_option_that_does_not_fit_the_device_is_refused(options, words, capsys):
    assert main(["bench", "train", "--preset", "tiny", *options]) == 2
    assert words in capsys.readouterr().err


def test_a_nan_loss_is_detected():
    with pytest.raises(MeasurementFailed, match="differ by nan"):
        bench.max_difference({"minimtp": [1.0, 1.0], "torch": [1.0, float("nan")]})


@pytest.mark.parametrize("tied", [True, False])
def test_operations_are_counted_as_six_per_weight_of_a_matmul_plus_the_unmasked_half_of_attention(
    tied,
):
    recipe = replace(preset("tiny"), tied_embeddings=tied)
    model = build_model(recipe, np.random.default_rng(0))
    matrices = {name: p.data.size for name, p in model.named_parameters() if p.data.ndim == 2}
    multiplied = sum(size for name, size in matrices.items() if tied or name != "embedding.weight")
    length = recipe.context_length
    seen = np.tril(np.ones((length, length))).sum()  # pairs of a query and a visible key
    attention = 3 * recipe.num_layers * 2 * 2 * recipe.hidden_size * seen / recipe.context_length
    assert bench.operations_per_token(recipe) == 6 * multiplied + attention
    assert recipe.trunk_parameters() == parameter_count(model)


@pytest.mark.parametrize(("load", "warned"), [(1.5, True), (0.1, False), (None, False)])
def test_a_busy_machine_is_reported(load, warned, monkeypatch, capsys):
    monkeypatch.setattr(machine, "load", lambda: load)
    monkeypatch.setattr(workers, "Worker", IdleWorker)
    assert main(QUICK) == 0
    assert ("busy" in capsys.readouterr().out) == warned


class IdleWorker:
    """Reports that every round takes one second and has a loss of 1."""

    about = {"title": "idle", "threads": 1, "how": "", "versions": {}}

    def __init__(self, *settings):
        pass

    def run(self, batches, uncounted=0):
        return workers.Round(1.0, None, [1.0] * len(batches))

    def close(self):
        pass


def test_without_pytorch_its_line_says_so_and_everything_else_is_measured(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    out = tmp_path / "new" / "train.json"
    assert main([*QUICK, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^PyTorch +is not installed", printed, re.MULTILINE)
    assert re.search(r"^torch.compile +is not installed", printed, re.MULTILINE)
    result = json.loads(out.read_text())
    assert set(result["implementations"]) == {"minimtp", "qat", "learned", "heads"}
    assert set(result["ratios"]) == {"qat", "learned", "heads"}
    assert result["losses"]["heads"] == result["losses"]["minimtp"], (
        "the heads are detached at first, so they must not change the trunk"
    )
    assert (
        result["losses"]["qat"] != result["losses"]["minimtp"]
        and result["losses"]["max_difference"] is None
    )
    assert result["losses"]["learned"] != result["losses"]["qat"]
    assert set(result["missing"]) == {"torch", "torch.compile"}
    assert "torch" not in result["versions"]


def test_a_broken_pytorch_is_reported_with_the_reason(monkeypatch, tmp_path, capsys):
    (tmp_path / "torch.py").write_text('raise ImportError("its library is missing")')
    monkeypatch.syspath_prepend(tmp_path)
    assert main(QUICK) == 0
    assert "cannot be used (its library is missing)" in capsys.readouterr().out


@needs_torch
def test_a_missing_compiler_is_reported(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    with pytest.raises(ImportError, match="torch.compile does not work here"):
        workers.Worker("torch.compile", preset("tiny"), 1, "cpu", None)


@needs_torch
@needs_compiler
@pytest.mark.slow  # compiling takes almost a minute
def test_compiled_pytorch_trains_the_same_model(ours):
    recipe = preset("tiny")
    theirs = first_losses(CompiledTorchTrainer(recipe, 1), recipe)
    assert (
        bench.max_difference({"minimtp": ours, "torch.compile": theirs})
        <= bench.TOLERANCES["float32"]
    )


def test_the_load_is_read_once_before_the_measurement(monkeypatch):
    loads = iter([0.2, 3.0])
    machine.load.cache_clear()
    monkeypatch.setattr("os.getloadavg", lambda: (next(loads), 0.0, 0.0))
    assert machine.load() == machine.load() == 0.2
    machine.load.cache_clear()


@pytest.mark.parametrize(
    ("load", "printed"), [(None, ""), (0.5, ""), (0.6, ", other work running before (load 0.6)")]
)
def test_a_table_mentions_other_work_on_a_busy_machine(load, printed):
    assert machine.other_work({"load_before": load}) == printed


@needs_torch
def test_unpickling_a_description_does_not_load_pytorch():
    assert b"torch_version" not in pickle.dumps(TorchTrainer(preset("tiny"), 1).about)


@needs_torch
@pytest.mark.parametrize(
    "compiled",
    [False, pytest.param(True, marks=[needs_compiler, pytest.mark.slow])],
    ids=["without torch.compile", "with torch.compile"],
)
def test_the_file_holds_every_condition_of_the_measurement(compiled, tmp_path, capsys, monkeypatch):
    if not compiled:
        monkeypatch.delitem(workers.BASELINES["cpu"], "torch.compile")
    out = tmp_path / "train.json"
    assert main([*QUICK, "--kernels", "plain", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^minimtp / PyTorch +\d", printed, re.MULTILINE)
    assert re.search(r"^minimtp QAT / minimtp QAT, learned steps +\d", printed, re.MULTILINE)
    result = json.loads(out.read_text())
    assert ("torch.compile" in result["implementations"]) == compiled
    assert {"python", "numpy", "torch", "minimtp"} <= set(result["versions"])
    assert result["machine"].keys() == {
        "processor",
        "cores",
        "blas_threads",
        "system",
        "load_before",
    }
    assert (result["threads"], result["steps"], result["rounds"], result["preset"]) == (
        1,
        2,
        2,
        "tiny",
    )
    for measured in result["implementations"].values():
        rates = measured["tokens_per_second_by_round"]
        assert len(rates) == 2
        assert (
            measured["slowest"]
            == min(rates)
            <= measured["tokens_per_second"]
            <= measured["fastest"]
            == max(rates)
        )
        assert measured["gflops"] == pytest.approx(
            measured["tokens_per_second"] * result["operations_per_token"] / 1e9
        )
        assert measured["share_of_peak"] == pytest.approx(
            measured["gflops"] / result["sgemm_gflops"]
        )
        assert measured["threads"] == 1
    for baseline, ratio in result["ratios"].items():
        ours, theirs = (
            result["implementations"][name]["tokens_per_second_by_round"]
            for name in ("minimtp", baseline)
        )
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        assert ratio == pytest.approx(
            {"median": sum(ratios) / 2, "lowest": min(ratios), "highest": max(ratios)}
        )
    qat, learned = (
        result["implementations"][name]["tokens_per_second_by_round"] for name in ("qat", "learned")
    )
    ratios = [a / b for a, b in zip(qat, learned, strict=True)]
    assert result["learned_steps"]["median"] == pytest.approx(sum(ratios) / 2)
    assert result["losses"]["max_difference"] <= result["losses"]["tolerance"]
    assert (
        len(result["losses"]["minimtp"])
        == len(result["losses"]["torch"])
        == result["losses"]["steps"]
        == 20
    )
    assert "plain" in result["implementations"]["minimtp"]["how"]


def test_results_are_saved_before_their_table_is_printed(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "Worker", IdleWorker)
    monkeypatch.setattr(bench, "table", Mock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        bench.measure_training(
            "tiny",
            steps=2,
            rounds=2,
            threads=1,
            out=tmp_path / "train.json",
            report=lambda line: None,
        )
    assert json.loads((tmp_path / "train.json").read_text())["measurement"] == "train"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "steps must be a whole number from 1"),
        (["--rounds", "-1"], "rounds must be a whole number from 1"),
        (["--threads", "0"], "threads must be a whole number from 1"),
        (["--threads", "1M"], "threads must be a whole number from 1 to"),
        (["--steps", "2.5"], "not a whole number"),
        (["--preset", "tyni"], "--preset must be one of"),
        (["--out", "."], ". is a folder"),
        (["--out", "file/new/train.json"], "file is not a folder"),
        (["--round", "2"], "did you mean --rounds?"),
    ],
    ids=str,
)
def test_a_bad_option_is_refused_before_the_measurement_begins(
    arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(workers, "Worker", lambda *settings: pytest.fail("the measurement began"))
    assert main(["bench", "train", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err


def test_an_unknown_measurement_is_refused_with_a_suggestion(capsys):
    assert main(["bench", "trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_a_worker_that_dies_is_an_error_instead_of_a_hang():
    worker = workers.Worker("minimtp", preset("tiny"), 1, "cpu", "plain")
    worker.process.kill()
    worker.process.join()
    with pytest.raises(MeasurementFailed, match="ended with exit code"):
        worker.run([np.zeros((1, 2), np.int64)])
    worker.close()
