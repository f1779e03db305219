"""llama.cpp in another process, with a stand-in for its library (table_llama.py)."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp import process
from minimtp.bench.baselines.llama_cpp.decoder import decoder_of
from minimtp.bench.baselines.llama_cpp.process import LlamaProcess, find_llama
from minimtp.bench.baselines.llama_cpp.quality import evaluate_llama
from minimtp.engine.tensor import Parameter
from minimtp.errors import MeasurementFailed, UserError
from minimtp.training.build import build_model
from minimtp.training.presets import preset

TABLE = Path(__file__).with_name("table_llama.py")


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Let the stand-in be the library of a Python that another process runs."""
    package = tmp_path / "packages" / "llama_cpp"
    package.mkdir(parents=True)
    shutil.copy(TABLE, package / "__init__.py")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv(process.VARIABLE, sys.executable)
    process._find_in.cache_clear()
    yield package / "__init__.py"
    process._find_in.cache_clear()


@pytest.fixture
def llama(library, tmp_path):
    (tmp_path / "model.gguf").touch()
    with LlamaProcess(tmp_path / "model.gguf", threads=2) as opened:
        yield opened


def expected(tokens):
    return np.eye(5, dtype=np.float32)[np.cumsum(tokens) % 5]


def test_the_python_with_the_library_is_found_with_its_version(library):
    assert find_llama() == (sys.executable, "table", "")


def test_logits_come_back_for_every_token_also_over_several_passes(llama):
    assert (llama.vocabulary_size, llama.context_length, llama.max_rows) == (5, 700, 512)
    window = np.random.default_rng(0).integers(0, 4, 700)
    np.testing.assert_array_equal(llama.logits(window), expected(window))
    np.testing.assert_array_equal(llama.logits(window[:3]), expected(window[:3]))


def test_a_rollback_leaves_the_first_rows(llama):
    llama.forward([1, 2, 3])
    llama.truncate(1)
    np.testing.assert_array_equal(llama.forward([3, 3]).logits, expected([1, 3, 3])[1:])
    assert llama.length == 3


def test_a_prompt_is_continued_with_the_most_likely_tokens(llama):
    found = llama.greedy([1] * 600, 4)
    assert found.tokens == [0, 0, 0, 0]
    assert llama.greedy(np.array([1]), 2).tokens == [1, 2]
    assert found.prompt_seconds > 0 and found.tokens_per_second == 3 / found.seconds > 0
    np.testing.assert_array_equal(llama.logits([2]), expected([2]))


def test_what_does_not_fit_the_context_is_an_error_before_anything_runs(library, tmp_path):
    (tmp_path / "model.gguf").touch()
    with LlamaProcess(tmp_path / "model.gguf", context=4) as llama:
        with pytest.raises(ValueError, match="do not fit a context of 4"):
            llama.forward([0] * 5)
        for prompt, count in ([[0] * 4, 2], [[], 1]):
            with pytest.raises(ValueError, match="do not fit a context of 4"):
                llama.greedy(prompt, count)
        assert len(llama.greedy([0] * 4, 1).tokens) == 1


def test_text_becomes_tokens_and_tokens_become_bytes(llama):
    assert llama.tokenize("\u732b\n") == [4, 0] and llama.tokenize("", special=True) == [0, 1]
    assert llama.piece(3) == b"\xff3"


def test_the_memory_of_the_process_is_told(llama):
    found = llama.memory()
    if found is not None:
        assert found.peak >= found.now > 1e6 and found.peak >= found.before > 1e6
        assert found.model == found.now - found.before


def test_a_crash_of_the_library_is_an_error_here_and_names_the_exit_code(llama):
    with pytest.raises(MeasurementFailed, match="ended with exit code -?[1-9]"):
        llama.forward([999])
    with pytest.raises(MeasurementFailed, match="ended with exit code"):
        llama.forward([1])


def test_a_failure_inside_the_library_is_told_and_the_process_lives_on(llama):
    with pytest.raises(MeasurementFailed, match="no attribute 'encode'"):
        llama.tokenize(3)
    assert llama.greedy([1], 1).tokens == [1]


def test_a_file_that_cannot_be_loaded_is_named(library, tmp_path):
    with pytest.raises(MeasurementFailed, match=r"cannot load .*missing\.gguf"):
        LlamaProcess(tmp_path / "missing.gguf")


def test_loss_divergence_and_agreement_are_those_of_the_logits(llama):
    """The reference is a model that predicts the same, so it agrees and diverges by nothing."""

    class Same:
        def parameters(self):
            return [Parameter(np.zeros(1, np.float32))]

        def hidden(self, tokens):
            return type("Hidden", (), {"data": expected(tokens[0])[None]})

        def logits(self, hidden):
            return hidden

    windows = np.random.default_rng(1).integers(0, 4, (2, 200))
    found = evaluate_llama(llama, windows, Same())
    total = np.log(np.e + 4)
    right = np.cumsum(windows[:, :-1], axis=1) % 5 == windows[:, 1:]
    np.testing.assert_allclose(found.nats, total - right, rtol=1e-6)
    np.testing.assert_allclose(found.divergence, 0, atol=1e-6)
    assert found.agrees.all() and found.agrees.shape == (2, 199)
    assert evaluate_llama(llama, windows[:1])[1:] == (None, None)


def test_without_the_library_the_reason_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv(process.VARIABLE, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    process._find_in.cache_clear()
    python, _, obstacle = find_llama()
    assert python is None and "pip install llama-cpp-python" in obstacle
    with pytest.raises(UserError, match="llama.cpp is not installed"):
        LlamaProcess(tmp_path / "model.gguf")
    process._find_in.cache_clear()


@pytest.mark.parametrize(
    "content", [None, "", "raise OSError('a shared library is missing')", "import nothing_here"]
)
def test_a_python_that_cannot_run_it_is_named_with_the_reason(library, monkeypatch, content):
    if content is None:
        monkeypatch.setenv(process.VARIABLE, str(library.parent / "python"))
    else:
        library.write_text(content)
    python, _, obstacle = find_llama()
    assert python is None
    assert "cannot be used in" in obstacle and process.VARIABLE in obstacle


def test_a_model_of_ours_is_decoded_through_a_temporary_file(library):
    pytest.importorskip("gguf")
    model = build_model(preset("tiny"), np.random.default_rng(0))
    with decoder_of(model, context=9) as llama:
        assert llama.context_length == 9
        np.testing.assert_array_equal(llama.forward([1, 2]).logits, expected([1, 2]))
