"""The number of threads of a decoder is the one that was measured to be fastest."""

import copy

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.policy import threads
from minimtp.decode.policy.threads import fastest_threads
from minimtp.errors import UserError
from minimtp.model.loaded import LoadedModel
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.kernels.both import needs_numba


def model():
    return build_model(preset("tiny"), np.random.default_rng(0))


@pytest.fixture
def runner():
    return ModelRunner(model(), 64)


@pytest.fixture
def loaded():
    return LoadedModel("nowhere", model(), ByteTokenizer())


@pytest.mark.parametrize(
    ("limit", "seconds", "expected"),
    [
        (8, {1: 8.0, 2: 4.5, 4: 3.0, 8: 2.9}, 4),  # 8 threads gain less than they cost
        (6, {1: 8.0, 2: 4.5, 4: 3.0, 6: 2.0}, 6),
        (2, {1: 1.0, 2: 1.4}, 1),
        (4, {1: 1.0, 2: 1.1, 4: 0.5}, 4),  # two threads may share a core
    ],
)
def test_the_fastest_number_is_chosen_if_it_gains_enough(
    runner, monkeypatch, limit, seconds, expected
):
    runner.weight_bytes = threads.SMALL
    runner.rows_at_once = True
    monkeypatch.setattr(threads, "_seconds", lambda _, a, b: (seconds[a], seconds[b]))
    monkeypatch.setattr(threads, "available_cores", lambda: limit)
    assert fastest_threads(runner) == expected


def test_a_small_model_uses_one_thread_without_any_measurement(runner, monkeypatch):
    monkeypatch.setattr(threads, "_seconds", None)
    assert runner.weight_bytes < threads.SMALL
    monkeypatch.setattr(threads, "available_cores", lambda: 64)
    assert fastest_threads(runner) == 1


@needs_numba
def test_measuring_leaves_the_runner_as_it_was(runner, monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    runner.forward(np.array([1, 2, 3]))
    runner.weight_bytes = threads.SMALL
    assert fastest_threads(runner) in (1, 2)
    assert (runner.length, runner.threads) == (3, 1)


@needs_numba
@pytest.mark.parametrize("drafter", ["none", "ngram"])
def test_a_text_is_the_same_with_any_number_of_threads(loaded, drafter):
    texts = set()
    for count in (1, 2, 3):
        decoder = Decoder(loaded, DraftConfig(drafter), threads=count)
        assert decoder.target.threads == count
        for each in (decoder, copy.deepcopy(decoder)):
            assert each.target.threads == count
            texts.add(tuple(each.generate("one two one two ", max_new_tokens=24)))
    assert len(texts) == 1


def test_plain_code_uses_one_thread_whatever_is_asked_for(loaded):
    kernels.use("plain")
    try:
        assert Decoder(loaded, threads=3).target.threads == 1
    finally:
        kernels.use("auto")


def test_a_number_of_threads_that_is_none_is_refused(loaded):
    with pytest.raises(UserError, match="threads must be a whole number from 1"):
        Decoder(loaded, threads=0)
