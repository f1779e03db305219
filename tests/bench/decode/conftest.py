"""A tiny trained run, and one measurement of it, shared by the tests of `bench decode`."""

import json

import pytest

from minimtp.cli import main

SIZES = ["--prompts", "2", "--prompt", "6", "--max-new-tokens", "6", "--repeats", "2"]
MODEL = ["--preset", "tiny", "--context-length", "32", "--heads", "token_conditioned"]
TRAINING = ["--tokens", "640", "--evaluation-tokens", "256"]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run folder with token-conditioned heads."""
    folder = tmp_path_factory.mktemp("bench")
    poem = folder / "poem.txt"
    poem.write_bytes(b"roses are red, violets are blue, sugar is sweet and so are you.\n" * 60)
    out = folder / "run"
    assert main(["train", *MODEL, *TRAINING, "--corpus", str(poem), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def measured(run, tmp_path_factory):
    """(folder, result) of `bench decode` on the run, with the run itself as the draft model."""
    out = tmp_path_factory.mktemp("measured") / "new"
    assert main(["bench", "decode", str(run), *SIZES, "--small", str(run), "--out", str(out)]) == 0
    return out, json.loads((out / "bench-decode.json").read_text(encoding="utf-8"))
