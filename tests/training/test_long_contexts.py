"""Evaluation and calibration at any context length: bounded memory, and results that do not depend
on how the work is cut into slices.
"""

import argparse
import math
import tracemalloc
from pathlib import Path

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model import loss, transformer
from minimtp.model.divergence import evaluate_against, kl_divergence
from minimtp.model.loss import evaluate_losses
from minimtp.model.matrix import weight_bytes
from minimtp.quant.ptq.methods import METHODS, METHODS_WITH_TEXT, quantize_after_training
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training import evaluate as evaluation
from minimtp.training.build import build_model
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate, evaluate_model
from minimtp.training.quantize import calibration_batches, quantize
from minimtp.training.run.folder import LoadedRun
from minimtp.training.tokenizers.tokenizer import ByteTokenizer
from tests.training.helpers import recipe_of

CONTEXTS = (2, 7, 64, 2_400, 8_192, 65_537, 1_000_000)
HELD_OUT = 400  # tokens of the small text, about
each_context = pytest.mark.parametrize("context", CONTEXTS)


@pytest.fixture(scope="module")
def text() -> Corpus:
    return Corpus("a small text", [("text", Path(argparse.__file__).read_bytes()[: 10 * HELD_OUT])])


@pytest.fixture(autouse=True)
def plain_kernels():
    """Nothing here depends on the kernels. Array code needs no compiling."""
    kernels.use("plain")
    yield
    kernels.use("auto")


def run_of(context: int, heads: str = "none", **changes: object) -> LoadedRun:
    """Return a random model with this context length, as if it had been loaded."""
    depth = {} if heads == "none" else {"heads": heads, "draft_depth": 2}
    recipe = recipe_of(context_length=context, batch_size=1, tokens=context, **depth, **changes)
    model = build_model(recipe, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data[...] = 0.2 * rng.standard_normal(parameter.shape)
    return LoadedRun(Path("run"), model, ByteTokenizer(), recipe)


@each_context
@pytest.mark.parametrize("heads", ["none", "parallel", "sequential", "token_conditioned", "eagle3"])
def test_an_evaluation_predicts_at_most_the_requested_tokens_at_any_context(text, context, heads):
    run = run_of(context, heads)
    result = evaluate(run, text, tokens=100)
    assert result.window == min(context, 100) and 100 - result.window < result.tokens <= 100
    assert math.isfinite(result.bits_per_byte) and result.perplexity == math.exp(result.nats[0])
    everything = evaluate(run, text)
    longest = len(text.validation) - 1 - run.model.depth
    assert everything.window == min(context, longest, run.recipe.evaluation_tokens)


@each_context
def test_a_requested_context_is_the_window_or_one_sentence_says_what_is_possible(text, context):
    run = run_of(context)
    assert evaluate(run, text, context_length=2).window == 2
    with pytest.raises(UserError, match="context_length must be .* at least 1, not 0"):
        evaluate(run, text, context_length=0)
    with pytest.raises(
        UserError, match=f"context must be 1 to {context} tokens.*not {context + 1}"
    ):
        evaluate(run, text, context_length=context + 1)


def test_a_window_is_no_longer_than_2048_tokens_unless_a_longer_one_is_requested():
    text = Corpus("text", [("text", Path(argparse.__file__).read_bytes())])
    run = run_of(8_192, evaluation_tokens=5_000)
    assert len(text.validation) > 5_000
    assert evaluate(run, text).window == 2_048
    assert evaluate(run, text, context_length=4_096).window == 4_096


@pytest.mark.parametrize("length", range(5))
def test_a_text_without_anything_to_predict_is_refused_and_any_other_is_evaluated(length):
    poem = Corpus("poem", [("poem", b"x" * 10 * length)])
    run = run_of(65_537, "parallel")  # two heads: four tokens are needed
    if len(poem.validation) >= 4:
        assert evaluate(run, poem).tokens == len(poem.validation) - 3
    else:
        with pytest.raises(UserError, match="poem is too short: its held-out part has .* needs 4"):
            evaluate(run, poem)


def test_the_slices_of_an_evaluation_change_no_prediction_and_only_the_last_bits_of_a_loss(
    text, monkeypatch
):
    """A matrix product may add in another order for another number of rows: 1e-5 is a hundred
    times float32's precision.
    """
    run, reference = run_of(300, "sequential").model, run_of(300).model
    tokens = text.train[: 3 * 303].reshape(3, 303).astype(np.int64)
    whole = evaluate_against(run, reference, tokens)
    results = [evaluate_model(run, text, 100, 300, 1, reference)]
    for rows, logits, at_once in ((1, 257, 1), (7, 2_000, 100), (64, 257 * 50, 250)):
        monkeypatch.setattr(transformer, "ROWS_AT_ONCE", rows)
        monkeypatch.setattr(loss, "LOGITS_AT_ONCE", logits)
        monkeypatch.setattr(evaluation, "TOKENS_AT_ONCE", at_once)
        for found, expected in zip(evaluate_against(run, reference, tokens), whole, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        results.append(evaluate_model(run, text, 100, 300, 2, reference))
    for result in results[1:]:
        assert result.accuracy == results[0].accuracy
        assert result.acceptance == results[0].acceptance
        assert result.agreement == results[0].agreement
        assert result.nats == pytest.approx(results[0].nats, rel=1e-6)
        assert result.divergence == pytest.approx(results[0].divergence, rel=1e-5)


def test_the_divergence_is_the_sum_of_its_definition_and_zero_for_the_model_itself(text):
    rng = np.random.default_rng(0)
    expected, logits = rng.normal(0, 5, (2, 50, 11))
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (expected, logits))
    np.testing.assert_allclose(
        kl_divergence(expected, logits), (p * np.log(p / q)).sum(axis=1), rtol=1e-12
    )
    run, other = run_of(64), run_of(64, "parallel")
    other.model.trunk.blocks[0].attention.qkv.weight.data[...] *= 1.5
    same = evaluate(run, text, against=run)
    assert (same.divergence, same.agreement) == (0.0, 1.0)
    result = evaluate(run, text, against=other)
    assert result.divergence > 0 and result.agreement < 1
    assert result.nats == evaluate(run, text).nats


def test_a_reference_with_other_tokens_is_refused(text):
    class Shifted(ByteTokenizer):
        def decode_bytes(self, tokens):
            return bytes((token + 1) % 256 for token in tokens)

    run = run_of(64)
    other = LoadedRun(Path("other"), run.model, Shifted(), run.recipe)
    with pytest.raises(UserError, match="other has other tokens than run"):
        evaluate(run, text, against=other)


@each_context
@pytest.mark.parametrize("depth", [0, 3])
def test_calibration_batches_are_never_empty_and_never_longer_than_a_slice(text, context, depth):
    batches = calibration_batches(text, context, depth, 2_000)
    assert all(len(batch) for batch in batches)
    length = batches[0].shape[1] - 1 - depth
    assert length == min(context, 2_000, len(text.train) - 1 - depth)
    assert sum(len(batch) for batch in batches) * length <= 2_000
    assert all(len(batch) * length <= max(1_024, length) for batch in batches)


@each_context
@pytest.mark.parametrize("method", METHODS)
def test_every_method_quantizes_at_any_context(text, context, method, tmp_path):
    run, said = run_of(context, "token_conditioned"), []
    packed = quantize(
        run,
        tmp_path / "packed",
        method=method,
        head_grid="measured" if method in METHODS_WITH_TEXT else None,
        calibration=text if method in METHODS_WITH_TEXT else (),
        report=said.append,
    )
    assert packed.packed.weights == "q4_0" and math.isfinite(evaluate(packed, text).nats[0])
    assert packed.config.context_length == context


@pytest.mark.parametrize("method", METHODS_WITH_TEXT)
def test_the_batches_of_calibration_hardly_change_a_quantized_model(text, method, monkeypatch):
    """Statistics are sums of float64, but their terms come from float32 products whose last bits
    depend on the number of rows. A weight between two levels can move, so losses may differ by a
    hundredth of what rounding costs.
    """
    model = run_of(64).model
    tokens = calibration_batches(text, 64, 0, 2_000)
    whole = np.concatenate(tokens)
    losses = [
        evaluate_losses(
            quantize_after_training(model, QuantizationSpec(), method, list(batches)), whole
        )[0].mean(dtype=np.float64)
        for batches in (whole[None], np.array_split(whole, 7), np.array_split(whole, len(whole)))
    ]
    cost = abs(losses[0] - evaluate_losses(model, whole)[0].mean(dtype=np.float64))
    assert losses[1:] == pytest.approx(losses[:1] * 2, abs=0.01 * cost)


def traced_peak(function) -> int:
    """Return the peak of the memory that NumPy allocates while the function runs, in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_memory_of_an_evaluation_is_that_of_one_slice_at_any_context():
    """The vocabulary has 20,000 tokens: a window of 8,192 tokens has 655 MB of logits."""
    text = Corpus("text", [("text", Path(argparse.__file__).read_bytes())])
    model = run_of(65_537, vocabulary_size=20_000, intermediate_size=64).model
    peaks = [
        traced_peak(lambda window=window: evaluate_model(model, text, window, window, 1))
        for window in (64, 2_048, 8_192)
    ]
    slice_bytes = 3 * 4 * loss.LOGITS_AT_ONCE  # logits, their exponentials, and a temporary
    assert weight_bytes(model) < slice_bytes
    assert max(peaks) <= 1.2 * slice_bytes
