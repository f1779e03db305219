"""The model runner computes the logits of the training model, for any split of the sequence."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.bench.decode.weight_formats import ROUNDED
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.rules.tree import Tree
from minimtp.engine.module import map_parameters
from minimtp.errors import UserError
from minimtp.kernels.plain.cache import joined_panels
from minimtp.model.config import ModelConfig
from minimtp.model.transformer import Transformer
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.helpers.strategies import tree_forms
from tests.model.cases import FAMILIES

needs_numba = pytest.mark.skipif(
    kernels.describe()[0] != "cpu",
    reason="Numba is not installed: plain matmuls use BLAS, whose bits depend on the shape",
)

CONTEXT = 48  # two panels of keys
SHAPE = ModelConfig(
    vocabulary_size=40,
    context_length=CONTEXT,
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=96,
)
TEXT = np.random.default_rng(3).integers(0, SHAPE.vocabulary_size, CONTEXT)


def trunk(tied=True, dtype=np.float32, family="llama"):
    variant = {"head_dim": None, **FAMILIES[family]}
    config = replace(SHAPE, tied_embeddings=tied, **variant)
    model = Transformer(config, np.random.default_rng(0))
    noise = np.random.default_rng(1)  # no weight keeps its initial value of 0 or 1
    map_parameters(
        model, lambda array: (array + 0.2 * noise.standard_normal(array.shape)).astype(dtype)
    )
    return model


KINDS = ["float32", *ROUNDED, "float32, cache float16", "int4, cache int8"]


def runner_of(kind):
    """Return a runner of the trunk in float32, float64 or a weight format of `ROUNDED`, and with a
    cache of its own format, if the kind names one.
    """
    kind, _, cache = kind.partition(", cache ")
    model = trunk(dtype=np.float64 if kind == "float64" else np.float32)
    model = round_to_nearest(model, ROUNDED[kind]) if kind in ROUNDED else model
    return ModelRunner(model, kv_cache=cache or None)


def feed(runner, pieces):
    """Feed TEXT in pieces of these lengths. Return the logits of all tokens: (T, V)."""
    logits, start = [], 0
    for piece in pieces:
        logits.append(runner.forward(TEXT[start : start + piece]).logits)
        start += piece
    return np.concatenate(logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pieces", [[CONTEXT], [1] * CONTEXT, [7, 1, 23, 17]])
@pytest.mark.parametrize("family", FAMILIES)
def test_feeding_a_sequence_in_pieces_gives_the_logits_of_the_whole_sequence(tied, pieces, family):
    model = trunk(tied, np.float64, family)
    expected = model.logits(model.hidden(TEXT[None])).data[0]
    np.testing.assert_allclose(feed(ModelRunner(model), pieces), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_trunk_gives_the_logits_of_the_fake_quantized_trunk(family):
    model = trunk(family=family)
    packed = round_to_nearest(model, QuantizationSpec())
    faked = prepare_qat(model, QuantizationSpec())
    expected = faked.logits(faked.hidden(TEXT[None])).data[0]
    np.testing.assert_allclose(
        feed(ModelRunner(packed), [CONTEXT]), expected, rtol=0, atol=2e-4 * np.abs(expected).max()
    )


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@given(pieces=st.lists(st.integers(1, 16), min_size=1, max_size=12))
def test_compiled_logits_have_the_same_bits_for_any_pieces(kind, pieces):
    runner, total, kept = runner_of(kind), 0, []
    for piece in pieces:
        if total + piece <= CONTEXT:
            kept.append(piece)
            total += piece
    together = feed(runner, kept)
    runner.truncate(0)
    assert together.tobytes() == feed(runner, [1] * total).tobytes()


def test_after_truncation_logits_are_as_if_the_dropped_tokens_had_never_been_fed():
    runner = ModelRunner(trunk(dtype=np.float64))
    feed(runner, [6])
    runner.forward(TEXT[12:20])
    runner.truncate(6)
    again = runner.forward(TEXT[6:10]).logits
    np.testing.assert_allclose(
        again, feed(ModelRunner(trunk(dtype=np.float64)), [10])[6:], rtol=0, atol=1e-12
    )


def test_a_model_runner_rejects_a_fake_quantized_model_that_is_not_converted():
    with pytest.raises(TypeError, match="convert the model first"):
        ModelRunner(prepare_qat(trunk(), QuantizationSpec()))


def test_tokens_beyond_the_context_are_an_error():
    runner = ModelRunner(trunk())
    feed(runner, [CONTEXT - 4])
    with pytest.raises(ValueError, match="do not fit"):
        runner.forward(TEXT[:8])


@pytest.mark.parametrize(
    "kind", ["float64", *(pytest.param(kind, marks=needs_numba) for kind in KINDS)]
)
@given(
    first=st.sampled_from([3, 26, 30]),
    forms=st.lists(tree_forms(), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_tree_rows_and_the_cache_after_them_equal_their_paths_fed_as_chains(
    kind, first, forms, seed
):
    """Compiled kernels compute each row independently, so they agree bit for bit. In float64, plain
    matmuls agree up to rounding.
    """
    runner, chain, rng = runner_of(kind), runner_of(kind), np.random.default_rng(seed)
    equal = (
        np.testing.assert_array_equal
        if kind != "float64"
        else partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
    )
    for model in (runner, chain):
        model.forward(TEXT[:first])
    for form in forms:
        tree = Tree(rng.integers(0, SHAPE.vocabulary_size, len(form)), form)
        if runner.length + max(form) >= runner.context_length:
            break
        step, before = runner.forward_tree(tree.tokens, tree.depths), runner.length
        path = []
        for row in range(len(form)):
            path = [*path[: form[row]], row]
            expected = chain.forward(tree.tokens[path])
            chain.truncate(before)
            equal(step.logits[row], expected.logits[-1])
            equal(step.hidden[row], expected.hidden[-1])
        path = path[: rng.integers(1, len(path) + 1)]
        runner.keep(path)
        chain.forward(tree.tokens[path])
        length = runner.length
        assert length == chain.length == before + len(path)
        equal(*(joined_panels(cache.keys)[..., :length] for cache in (runner.cache, chain.cache)))
        equal(runner.cache.values[:, :length], chain.cache.values[:, :length])
        if runner.cache.steps is not None:
            equal(runner.cache.steps[..., :length], chain.cache.steps[..., :length])


def test_a_tree_beyond_the_context_is_an_error():
    runner = ModelRunner(trunk())
    feed(runner, [CONTEXT - 1])
    runner.forward_tree([0], [0])
    with pytest.raises(ValueError, match=f"does not fit a context of {CONTEXT}"):
        runner.forward_tree([0, 1], [0, 1])


@pytest.mark.parametrize("choice", ["auto", "plain"])
def test_a_float16_cache_holds_rounded_numbers_in_half_the_memory(choice, monkeypatch):
    monkeypatch.setattr("minimtp.kernels._choice", choice)
    whole, half = (ModelRunner(trunk(), kv_cache=cache) for cache in (None, "float16"))
    logits = [runner.forward(TEXT).logits for runner in (whole, half)]
    assert half.cache.nbytes * 2 == whole.cache.nbytes
    assert half.cache_bytes(20) * 2 == whole.cache_bytes(20)
    # The first layer's keys and values do not depend on the cache.
    for name in ("keys", "values"):
        exact, rounded = (getattr(runner.cache, name)[0] for runner in (whole, half))
        assert rounded.tobytes() == exact.astype(np.float16).tobytes()
    assert logits[1].dtype == np.float32
    difference = np.abs(logits[1] - logits[0]).max()
    assert 0 < difference < 1e-2 * np.abs(logits[0]).max()


@pytest.mark.parametrize("choice", ["auto", "plain"])
def test_a_float16_cache_holds_the_largest_number_of_the_format_instead_of_infinity(
    choice, monkeypatch
):
    monkeypatch.setattr("minimtp.kernels._choice", choice)
    model = trunk()
    for block in model.blocks:
        block.attention.qkv.weight.data *= np.float32(1e5)
    runner = ModelRunner(model, kv_cache="float16")
    assert np.isfinite(runner.forward(TEXT).logits).all()
    assert np.abs(runner.cache.values).max() == 65504


@pytest.mark.parametrize("kv_cache", ["float16", "int8"])
def test_a_rounded_cache_on_a_gpu_is_refused_with_a_sentence(device, kv_cache):
    model = Transformer(SHAPE, np.random.default_rng(0))
    map_parameters(model, device.xp.asarray)
    with pytest.raises(UserError, match=f"a KV cache of {kv_cache} is only for the CPU"):
        ModelRunner(model, kv_cache=kv_cache)
