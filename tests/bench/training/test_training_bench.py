"""The measurement of training speed: equal work on both sides, found out where it is not, and
complete in what it writes."""

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
from minimtp.bench.baselines.pytorch.training import CompiledTorchPeer, TorchPeer
from minimtp.bench.training import implementations as sides
from minimtp.bench.training import speed as bench
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


def first_losses(side, recipe):
    rng = np.random.default_rng(3)
    rows = (
        np.cumsum(
            rng.integers(0, 3, (bench.CHECKED_STEPS, recipe.batch_size, recipe.context_length + 1)),
            axis=-1,
        )
        % 50
    )  # learnable
    return side.run(list(rows))


@pytest.fixture(scope="module")
def ours():
    recipe = preset("tiny")
    return first_losses(sides.Minimtp(recipe, 1), recipe)


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
def test_both_sides_train_the_same_model(changes):
    recipe = replace(preset("tiny"), **changes)
    ours, theirs = (first_losses(side(recipe, 1), recipe) for side in (sides.Minimtp, TorchPeer))
    assert ours[0] > ours[-1] + 0.5
    assert (
        bench.largest_difference({"minimtp": ours, "torch": theirs}) <= bench.TOLERANCES["float32"]
    )


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
def test_a_peer_trained_with_another_setting_is_found_out(ours, changes):
    recipe = replace(preset("tiny"), **changes)
    with pytest.raises(MeasurementFailed, match="do not train the same model"):
        bench.largest_difference(
            {"minimtp": ours, "torch": first_losses(TorchPeer(recipe, 1), recipe)}
        )


@needs_torch
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_peer_in_fewer_bits_trains_the_same_model_as_far_as_rounding_lets_it(ours, precision):
    theirs = first_losses(
        TorchPeer(replace(preset("tiny"), precision=precision), 1), preset("tiny")
    )
    assert theirs != ours
    assert (
        bench.largest_difference({"minimtp": ours, "torch": theirs}, precision)
        > bench.TOLERANCES["float32"] / 10
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "bfloat16"], "precision bfloat16 needs a GPU"),
        (["--device", "cuda", "--threads", "1"], "threads are the CPU's"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_device_is_refused(options, words, capsys):
    assert main(["bench", "train", "--preset", "tiny", *options]) == 2
    assert words in capsys.readouterr().err


def test_a_loss_that_is_no_number_is_found_out():
    with pytest.raises(MeasurementFailed, match="differ by nan"):
        bench.largest_difference({"minimtp": [1.0, 1.0], "torch": [1.0, float("nan")]})


@pytest.mark.parametrize("tied", [True, False])
def test_operations_are_six_for_each_weight_of_a_product_and_the_visible_half_of_attention(tied):
    recipe = replace(preset("tiny"), tied_embeddings=tied)
    model = build_model(recipe, np.random.default_rng(0))
    matrices = {name: p.data.size for name, p in model.named_parameters() if p.data.ndim == 2}
    multiplied = sum(size for name, size in matrices.items() if tied or name != "embedding.weight")
    seen = np.tril(
        np.ones((recipe.context_length, recipe.context_length))
    ).sum()  # pairs of a query and a key
    attention = 3 * recipe.num_layers * 2 * 2 * recipe.hidden_size * seen / recipe.context_length
    assert bench.operations_per_token(recipe) == 6 * multiplied + attention
    assert recipe.trunk_parameters() == parameter_count(model)


@pytest.mark.parametrize(("load", "warned"), [(1.5, True), (0.1, False), (None, False)])
def test_a_busy_machine_is_told_of(load, warned, monkeypatch, capsys):
    monkeypatch.setattr(machine, "load", lambda: load)
    monkeypatch.setattr(sides, "Worker", IdleWorker)
    assert main(QUICK) == 0
    assert ("busy" in capsys.readouterr().out) == warned


class IdleWorker:
    """Claims to have done any round in a second, at a loss of 1."""

    about = {"title": "idle", "threads": 1, "how": "", "versions": {}}

    def __init__(self, *settings):
        pass

    def run(self, batches, uncounted=0):
        return sides.Round(1.0, None, [1.0] * len(batches))

    def close(self):
        pass


def test_without_pytorch_its_column_says_so_and_the_rest_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sides, "find_spec", lambda name: None)
    out = tmp_path / "new" / "train.json"
    assert main([*QUICK, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^PyTorch +is not installed", said, re.MULTILINE)
    assert re.search(r"^torch.compile +is not installed", said, re.MULTILINE)
    result = json.loads(out.read_text())
    assert set(result["sides"]) == {"minimtp", "qat", "heads"}
    assert set(result["ratios"]) == {"qat", "heads"}
    assert result["losses"]["heads"] == result["losses"]["minimtp"], (
        "heads learn detached at first, and cost the trunk nothing"
    )
    assert (
        result["losses"]["qat"] != result["losses"]["minimtp"]
        and result["losses"]["largest_difference"] is None
    )
    assert set(result["missing"]) == {"torch", "torch.compile"}
    assert "torch" not in result["versions"]


def test_where_pytorch_is_broken_its_column_says_how(monkeypatch, tmp_path, capsys):
    (tmp_path / "torch.py").write_text('raise ImportError("its library is missing")')
    monkeypatch.syspath_prepend(tmp_path)
    assert main(QUICK) == 0
    assert "cannot be used: its library is missing" in capsys.readouterr().out


@needs_torch
def test_where_pytorch_finds_no_compiler_its_column_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    with pytest.raises(ImportError, match="torch.compile does not work here"):
        sides.Worker("torch.compile", preset("tiny"), 1, "cpu", None)


@needs_torch
@needs_compiler
@pytest.mark.slow  # it compiles, for the better part of a minute
def test_the_compiled_peer_trains_the_same_model(ours):
    recipe = preset("tiny")
    theirs = first_losses(CompiledTorchPeer(recipe, 1), recipe)
    assert (
        bench.largest_difference({"minimtp": ours, "torch.compile": theirs})
        <= bench.TOLERANCES["float32"]
    )


def test_the_load_is_that_before_the_measurement_however_often_it_is_asked_for(monkeypatch):
    loads = iter([0.2, 3.0])
    machine.load.cache_clear()
    monkeypatch.setattr("os.getloadavg", lambda: (next(loads), 0.0, 0.0))
    assert machine.load() == machine.load() == 0.2
    machine.load.cache_clear()


@pytest.mark.parametrize(
    ("load", "said"), [(None, ""), (0.5, ""), (0.6, ", other work running before (load 0.6)")]
)
def test_a_table_says_of_other_work_where_there_was_some(load, said):
    assert machine.other_work({"load_before": load}) == said


@needs_torch
def test_what_a_side_says_of_itself_loads_no_pytorch_in_the_process_that_measures():
    assert b"torch_version" not in pickle.dumps(TorchPeer(preset("tiny"), 1).about)


@needs_torch
def test_the_file_holds_everything_that_the_figures_depend_on(tmp_path, capsys):
    out = tmp_path / "train.json"
    assert main([*QUICK, "--kernels", "plain", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^minimtp / PyTorch +\d", said, re.MULTILINE)
    result = json.loads(out.read_text())
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
    for side in result["sides"].values():
        rates = side["tokens_per_second_by_round"]
        assert len(rates) == 2
        assert (
            side["slowest"]
            == min(rates)
            <= side["tokens_per_second"]
            <= side["fastest"]
            == max(rates)
        )
        assert side["gflops"] == pytest.approx(
            side["tokens_per_second"] * result["operations_per_token"] / 1e9
        )
        assert side["share_of_peak"] == pytest.approx(side["gflops"] / result["sgemm_gflops"])
        assert side["threads"] == 1
    for peer, ratio in result["ratios"].items():
        ours, theirs = (
            result["sides"][name]["tokens_per_second_by_round"] for name in ("minimtp", peer)
        )
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        assert ratio == pytest.approx(
            {"median": sum(ratios) / 2, "lowest": min(ratios), "highest": max(ratios)}
        )
    assert result["losses"]["largest_difference"] <= result["losses"]["tolerance"]
    assert (
        len(result["losses"]["minimtp"])
        == len(result["losses"]["torch"])
        == result["losses"]["steps"]
        == 20
    )
    assert "plain" in result["sides"]["minimtp"]["how"]


def test_what_was_measured_is_in_the_file_before_it_is_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(sides, "Worker", IdleWorker)
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
        (["--steps", "0"], "steps must be at least 1"),
        (["--rounds", "-1"], "rounds must be at least 1"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--threads", "1M"], "threads must be at least 1 and at most"),
        (["--steps", "2.5"], "not a whole number"),
        (["--preset", "tyni"], "--preset must be one of"),
        (["--out", "."], ". is a folder"),
        (["--out", "file/new/train.json"], "cannot be made"),
        (["--round", "2"], "did you mean --rounds?"),
    ],
    ids=str,
)
def test_a_measurement_that_cannot_be_made_is_refused_before_it_begins(
    arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sides, "Worker", lambda *settings: pytest.fail("began"))
    assert main(["bench", "train", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err


def test_an_unknown_measurement_is_refused_with_the_closest_name(capsys):
    assert main(["bench", "trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_a_worker_that_dies_is_an_error_and_not_an_endless_wait():
    worker = sides.Worker("minimtp", preset("tiny"), 1, "cpu", "plain")
    worker.process.kill()
    worker.process.join()
    with pytest.raises(MeasurementFailed, match="ended with exit code"):
        worker.run([np.zeros((1, 2), np.int64)])
    worker.close()
