"""A finished comparison of a small pretrained model, for the tests of this folder."""

import pytest

import minimtp
from minimtp.compare.pretrained.run import compare_pretrained
from minimtp.training.data.corpus import open_corpus
from minimtp.training.presets import preset
from minimtp.training.run.train import train


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """Return the folder of a small trained model of bytes."""
    out = tmp_path_factory.mktemp("pretrained") / "run"
    recipe = preset("tiny", context_length=512, sequence_length=32, evaluation_tokens=0)
    train(recipe, open_corpus(()), out, report=lambda line: None)
    return out


@pytest.fixture(scope="session")
def finished(pretrained, tmp_path_factory):
    """Return the folder and the result of a whole comparison with the smallest preset."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    loaded = minimtp.load(pretrained)
    return out, compare_pretrained(loaded, out, "tiny", threads=2, report=lambda line: None)
