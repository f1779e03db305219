"""Training and compare are killed at arbitrary moments, and resumed until they are finished. The
result has the bits of an uninterrupted run, and nothing is left behind.
"""

import argparse
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tqdm import tqdm

from minimtp.compare import run as comparison
from minimtp.files.temporary import NAME
from minimtp.training.data.corpus import Corpus
from minimtp.training.run import checkpoint
from minimtp.training.run.folder import started
from minimtp.training.run.log import read_log
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import CONFIGURATIONS, losses, quiet, recipe_of, stored

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]
TRAINING_KILLS, COMPARE_KILLS = 15, 24  # TRAINING_KILLS: of each configuration
MAX_ATTEMPTS = 400
# of the time that the work gets in each further attempt: a busy machine may have become slower
GROWTH = 1.03
TEXT = Path(argparse.__file__)


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Array code only, which starts at once, and no plots."""
    monkeypatch.setattr("minimtp.kernels._choice", "plain")
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)
    monkeypatch.setattr("minimtp.compare.run.draw_comparison", lambda result, folder: None)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus("argparse", [("argparse.py", TEXT.read_bytes()[:40_000])])


def killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Do the work in a copy of this process, and kill it after some time.

    Returns whether it was killed. Fails if the work fails.
    """
    process = os.fork()
    if process == 0:
        status = 1
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            # All copies share tqdm's own lock, and one that is killed while it holds it keeps it.
            tqdm.set_lock(threading.RLock())
            work()
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            break
        time.sleep(0.002)
    else:
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
    assert status in (0, signal.SIGKILL), f"the process ended with status {status}"
    return status == signal.SIGKILL


def kill_until_finished(work: Callable[[], object], seconds: float, rng: random.Random) -> int:
    """Repeat the work, killing it after up to `seconds`, until it is done. Returns the kills."""
    for kills in range(MAX_ATTEMPTS):
        if not killed_after(rng.uniform(0, seconds * GROWTH**kills), work):
            return kills
    raise AssertionError(f"not finished after {MAX_ATTEMPTS} attempts")


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    assert not killed_after(600, work)
    return time.monotonic() - began


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if NAME.fullmatch(path.name)]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_run_that_is_killed_again_and_again_has_the_losses_of_an_uninterrupted_one(
    tmp_path, corpus, name
):
    recipe = recipe_of(checkpoint_every=3, **CONFIGURATIONS[name])

    def work(folder: Path) -> None:
        start = Start(resume=started(folder))
        train(recipe, corpus, folder, start, threads=1, report=quiet)
        if checkpoint.exists(folder):
            checkpoint.read(folder)

    seconds = timed(lambda: work(tmp_path / "whole"))
    rng, kills, folders = random.Random(name), 0, 0
    while kills < TRAINING_KILLS:
        folder = tmp_path / f"killed-{folders}"
        kills += kill_until_finished(partial(work, folder), seconds, rng)
        folders += 1
        assert losses(folder) == losses(tmp_path / "whole") and len(losses(folder)) == 12
        assert stored(folder) == stored(tmp_path / "whole")
        evaluations = [line for line in read_log(folder) if "evaluation" in line]
        assert evaluations == [
            line for line in read_log(tmp_path / "whole") if "evaluation" in line
        ]
        assert not left_over(folder)
        assert {path.name for path in folder.iterdir()} == {
            "checkpoint.safetensors", "recipe.json", "log.jsonl"
        }  # fmt: skip
    print(f"{name}: {kills} kills in {folders} runs")


def test_a_run_that_is_killed_at_any_of_its_writes_has_the_losses_of_an_uninterrupted_one(
    tmp_path, corpus
):
    recipe = recipe_of(steps=6, checkpoint_every=3)

    def work(folder: Path, kill_at: int = 0) -> None:
        """Train. The process kills itself before this operation on files, counted from 1."""
        counted = [0]

        def counting(operation: Callable) -> Callable:
            def call(*arguments, **options):
                counted[0] += 1
                if counted[0] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return operation(*arguments, **options)

            return call

        for name in ("open", "write", "fsync", "link", "replace", "rename", "unlink", "mkdir"):
            setattr(os, name, counting(getattr(os, name)))
        start = Start(resume=started(folder))
        train(recipe, corpus, folder, start, threads=1, report=quiet)

    assert not killed_after(600, partial(work, tmp_path / "whole"))
    kills = 0
    while killed_after(600, partial(work, tmp_path / f"killed-{kills}", kills + 1)):
        folder = tmp_path / f"killed-{kills}"
        kills += 1
        assert not killed_after(600, partial(work, folder)), kills
        assert losses(folder) == losses(tmp_path / "whole"), kills
        assert stored(folder) == stored(tmp_path / "whole"), kills
        assert not left_over(folder), kills
    assert kills > 40
    print(f"at every write: {kills} kills")


def test_a_comparison_that_is_killed_again_and_again_has_the_models_of_an_uninterrupted_one(
    tmp_path,
):
    def work(folder: Path) -> None:
        comparison.compare(
            "tiny", folder, corpus=[TEXT], device="cpu", threads=1, report=lambda line: None
        )

    seconds = timed(lambda: work(tmp_path / "whole"))
    whole = json.loads((tmp_path / "whole" / "compare.json").read_text())
    rng, kills, folders = random.Random(0), 0, 0
    while kills < COMPARE_KILLS:
        folder = tmp_path / f"killed-{folders}"
        kills += kill_until_finished(partial(work, folder), seconds / 2, rng)
        folders += 1
        found = json.loads((folder / "compare.json").read_text())
        for mine, other in zip(found["configurations"], whole["configurations"], strict=True):
            for key in ("name", "bits_per_byte", "accuracy", "weight_bytes", "greedy_texts"):
                assert mine.get(key) == other.get(key), key
        for name in ("stem", "standard", "mtp", "mtp_qat"):
            if (tmp_path / "whole" / name).exists():
                assert losses(folder / name) == losses(tmp_path / "whole" / name), name
                assert stored(folder / name) == stored(tmp_path / "whole" / name), name
        for name in ("mtp_qat_int4", "mtp_int4_rounded"):
            assert stored(folder / name) == stored(tmp_path / "whole" / name), name
        assert not left_over(folder)
    print(f"compare: {kills} kills in {folders} comparisons")
