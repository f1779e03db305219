"""Several commands write to one place at once: one of them succeeds, and each other one ends with
one sentence.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from minimtp.errors import UserError
from minimtp.formats.export import export
from minimtp.formats.load import load
from minimtp.training.data.corpus import Corpus
from minimtp.training.quantize import quantize
from minimtp.training.run.folder import load_run, started
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import losses, quiet, recipe_of, stored

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]
ROUNDS, PROCESSES = 20, 4


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Array code only, which starts at once, and no plots."""
    monkeypatch.setattr("minimtp.kernels._choice", "plain")
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus("argparse", [("argparse.py", Path(argparse.__file__).read_bytes()[:40_000])])


def at_once(work: Callable[[], object], outcomes: Path) -> list[str]:
    """Do the work in PROCESSES copies of this process. Return the error of each, "" for none."""
    outcomes.mkdir()
    began = time.time() + 0.05
    processes = []
    for number in range(PROCESSES):
        process = os.fork()
        if process == 0:
            said = "the process failed"
            try:
                time.sleep(max(0, began - time.time()))
                work()
                said = ""
            except UserError as error:
                said = str(error)
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            finally:
                (outcomes / str(number)).write_text(said)
                os._exit(0)
        processes.append(process)
    for process in processes:
        os.waitpid(process, 0)
    return [(outcomes / str(number)).read_text() for number in range(PROCESSES)]


@pytest.mark.parametrize("resume", [False, True])
def test_of_several_trainers_in_one_folder_one_trains_and_the_others_say_why_not(
    tmp_path, corpus, resume
):
    recipe = recipe_of(checkpoint_every=3)
    train(recipe, corpus, tmp_path / "alone", threads=1, report=quiet)

    def work(folder: Path) -> None:
        train(recipe, corpus, folder, Start(resume=resume), threads=1, report=quiet)

    for number in range(ROUNDS):
        folder = tmp_path / f"run-{number}"
        if resume:
            train(recipe, corpus, folder, threads=1, stop_at_step=2, report=quiet)
        said = at_once(partial(work, folder), tmp_path / f"said-{number}")
        assert "" in said
        for line in filter(None, said):
            assert any(
                words in line
                for words in ("is being written by", "already holds", "has started a run")
            ), line
        assert losses(folder) == losses(tmp_path / "alone")
        assert stored(folder) == stored(tmp_path / "alone")
        assert {path.name for path in folder.iterdir()} == {
            "checkpoint.safetensors", "recipe.json", "log.jsonl"
        }  # fmt: skip


def test_of_several_quantizations_into_one_folder_one_is_written(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path / "run", threads=1, report=quiet)
    run = load_run(tmp_path / "run")
    quantize(run, tmp_path / "alone")
    for number in range(ROUNDS):
        folder = tmp_path / f"packed-{number}"
        said = at_once(partial(quantize, run, folder), tmp_path / f"said-{number}")
        assert said.count("") == 1
        for line in filter(None, said):
            assert "is being written by" in line or "already holds a checkpoint" in line, line
        assert stored(folder) == stored(tmp_path / "alone")
        assert len(list(folder.iterdir())) == 2


def test_several_exports_to_one_file_all_succeed_with_a_whole_file(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path / "run", threads=1, report=quiet)
    run = load_run(tmp_path / "run")
    export(run, tmp_path / "alone.gguf")
    (tmp_path / "out").mkdir()
    for number in range(ROUNDS):
        path = tmp_path / "out" / f"{number}.gguf"
        said = at_once(partial(export, run, path), tmp_path / f"said-{number}")
        assert said == [""] * PROCESSES
        assert path.read_bytes() == (tmp_path / "alone.gguf").read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == ROUNDS
    assert load(path).config == run.config
    assert not started(tmp_path / "out")
