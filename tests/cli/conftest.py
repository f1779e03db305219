"""Each test of the commands runs in its own folder. `run` is a small trained run in it."""

import shutil
from pathlib import Path

import pytest

from minimtp.cli import main
from tests.cli.helpers import SMALL, TEXT


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder contains only a few texts. No loss curves are drawn, to save time."""
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)
    monkeypatch.chdir(tmp_path)
    Path("poem.txt").write_bytes(TEXT)
    Path("short.txt").write_bytes(b"short")
    Path("empty.txt").write_bytes(b"\n\n")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a run that has heads."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "poem.txt").write_bytes(TEXT)
    options = ["--heads", "token_conditioned", "--draft-depth", "3", "--out", str(folder / "run")]
    assert main(["train", *SMALL, "--corpus", str(folder / "poem.txt"), *options]) == 0
    return folder


@pytest.fixture
def run(trained):
    """A copy of the trained run in the current folder."""
    shutil.copytree(trained / "run", "run")
    return Path("run")
