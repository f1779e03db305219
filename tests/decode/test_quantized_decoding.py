"""Quantized models that no compiled kernel supports decode with the numbers of training."""

import argparse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimtp
from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.ngram import NgramDrafter
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.params import SamplingParams
from minimtp.engine.tensor import no_grad
from minimtp.model.config import ModelConfig
from minimtp.model.transformer import Transformer
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.kv_cache import fake_quantize_rows
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.data.corpus import Corpus
from minimtp.training.presets import preset
from minimtp.training.quantize import quantize
from minimtp.training.run.train import train
from tests.decode.drafters.helpers import DEPTH, SHAPE, model_with, trained_draft
from tests.helpers.heads import KINDS
from tests.helpers.strategies import tree_forms
from tests.kernels.both import needs_numba

SPECS = {
    "one scale per token": QuantizationSpec(activations="int8-token"),
    "3-bit weights": QuantizationSpec(
        "int3-ggml-signed-g32", "nf4-g32", "int3-ggml-signed-g32", "int8"
    ),
    "an 8-bit cache": QuantizationSpec(cache="int8"),
    "one scale per token and an 8-bit cache": QuantizationSpec(
        activations="int8-token", cache="int8"
    ),
    "a 4-bit cache": QuantizationSpec(cache="int4"),
    "everything": QuantizationSpec(
        "int4-affine-channel", "int8-restricted-channel", "q4_1", "int8-token", cache="int4"
    ),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
each_kind = pytest.mark.parametrize("kind", KINDS)
texts = st.lists(
    st.integers(0, SHAPE.vocabulary_size - 1), min_size=4, max_size=SHAPE.context_length
)


def trained(spec, kind="token_conditioned", dtype=np.float64):
    return prepare_qat(model_with(kind, dtype), spec)


@each_spec
@given(text=texts, pieces=st.lists(st.integers(1, 6), min_size=1, max_size=24))
@settings(max_examples=8)
def test_decoding_gives_the_logits_of_the_training_forward_pass(spec, text, pieces):
    """The model is float64, in which sums in another order differ by a relative 1e-15. That is too
    little to change a code in this test.
    """
    model = trained(spec)
    with no_grad():
        expected = model.logits(model.hidden(np.array([text]))).data[0]
    runner, logits = deploy(convert(model))[0], []
    for piece in [*pieces, *[1] * len(text)]:
        if runner.length < len(text):
            logits.append(
                runner.forward(np.array(text[runner.length : runner.length + piece])).logits
            )
    np.testing.assert_allclose(
        np.concatenate(logits), expected, rtol=0, atol=1e-10 * np.abs(expected).max()
    )


@needs_numba
def test_a_model_trained_with_an_int8_cache_decodes_with_one_in_compiled_code():
    """A difference in the last bit of a key can change its code, so the logits differ a little."""
    model = trained(SPECS["an 8-bit cache"], dtype=np.float32)
    text = np.random.default_rng(2).integers(0, SHAPE.vocabulary_size, (1, SHAPE.context_length))
    with no_grad():
        expected = model.logits(model.hidden(text)).data[0]
    runner = deploy(convert(model))[0]
    assert runner.kernel.INT8_CACHE and runner.rows_at_once
    assert runner.cache.keys.dtype == runner.cache.values.dtype == np.int8
    found = runner.forward(text[0, :9]).logits, runner.forward(text[0, 9:]).logits
    apart = np.abs(np.concatenate(found) - expected) / np.abs(expected).max()
    assert apart.max() < 1e-2 and np.median(apart) < 1e-4


@each_spec
@given(text=texts, pieces=st.lists(st.integers(1, 6), min_size=24, max_size=24))
@settings(max_examples=5)
def test_logits_of_a_token_do_not_depend_on_the_tokens_fed_in_the_same_forward_pass(
    spec, text, pieces
):
    runner = deploy(convert(trained(spec, dtype=np.float32)))[0]
    expected = [runner.forward(np.array([token])).logits for token in text]
    runner.truncate(0)
    found = []
    for piece in pieces:
        if runner.length < len(text):
            found.append(
                runner.forward(np.array(text[runner.length : runner.length + piece])).logits
            )
    assert np.concatenate(found).tobytes() == np.concatenate(expected).tobytes()


@each_spec
@given(form=tree_forms(), seed=st.integers(0, 1000))
@settings(max_examples=5)
def test_each_tree_row_has_the_same_bits_as_the_chain_that_ends_at_it(spec, form, seed):
    runner, chain = (deploy(convert(trained(spec, dtype=np.float32)))[0] for _ in range(2))
    for each in (runner, chain):
        each.forward(np.arange(3))
    tree = Tree(np.random.default_rng(seed).integers(0, SHAPE.vocabulary_size, len(form)), form)
    if 3 + max(form) >= runner.context_length:
        return
    step, path = runner.forward_tree(tree.tokens, tree.depths), []
    for row in range(len(form)):
        path = [*path[: form[row]], row]
        assert step.logits[row].tobytes() == chain.forward(tree.tokens[path]).logits[-1].tobytes()
        chain.truncate(3)
    runner.keep(path)
    chain.forward(tree.tokens[path])
    assert (
        runner.forward(np.array([1])).logits.tobytes()
        == chain.forward(np.array([1])).logits.tobytes()
    )


@each_spec
@each_kind
@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=1.0)], ids=["greedy", "sampled"]
)
def test_generated_tokens_are_the_same_with_every_drafter_and_without_drafts(spec, kind, sampling):
    target, heads = deploy(convert(trained(spec, kind, np.float32)))

    def generate(drafter, **limits):
        options = GenerationOptions(16, sampling, seed=3, **limits)
        return list(start_generation(target, drafter, [1, 2, 3, 1, 2], options))

    alone = generate(None)
    assert len(alone) == 16
    assert generate(heads, draft_depth=DEPTH) == alone
    assert generate(heads, tree=6) == alone
    assert generate(NgramDrafter(4, min_length=1)) == alone


@each_kind
@pytest.mark.parametrize("name", ["3-bit weights", "an 8-bit cache", "a 4-bit cache"])
def test_deployed_heads_draft_the_tokens_of_the_training_forward_pass(name, kind):
    """This requires groups that are not larger than the heads' state. With one scale per token, the
    two halves of a head's input are rounded separately in decoding.
    """
    model, text = trained(SPECS[name], kind), [5, 1, 4, 1, 5, 9, 2, 6]
    target, heads = deploy(convert(model))
    with no_grad():
        hidden = model.trunk_states(np.array([text[:-1]])).data[0]
    heads.reset(text[0])
    heads.commit(hidden, np.array(text[1:]))
    assert heads.draft(DEPTH, Greedy())[0].tolist() == trained_draft(model, text, DEPTH)[0]


@pytest.mark.parametrize("cache", ["int8", "int4"])
def test_a_quantized_cache_holds_the_rounded_keys_and_values(cache):
    model = trained(QuantizationSpec(cache=cache), dtype=np.float32)
    kernels.use("plain")
    try:
        exact, rounded = (
            deploy(convert(each))[0]
            for each in (trained(QuantizationSpec(), dtype=np.float32), model)
        )
        first = np.array([3])  # its keys and values do not depend on numbers read from the cache
        exact.forward(first)
        rounded.forward(first)
    finally:
        kernels.use("auto")

    def stored(runner, name):
        """Return the first layer's keys or values (G, C) of the token."""
        cache, first = runner.cache, 0 if name == "keys" else 1
        rows = cache.keys[0, :, 0, :, 0] if name == "keys" else cache.values[0, 0]
        return rows if cache.steps is None else rows * cache.steps[0, first, :, :1]

    for name in ("keys", "values"):
        written, wanted = stored(rounded, name), stored(exact, name)
        np.testing.assert_allclose(written, fake_quantize_rows(wanted, cache), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "name", ["f16", "q4_0", "q8_0", "q6_k", "int4-affine-g32", "nf4-channel", "ternary-tensor"]
)
def test_decoding_uses_the_same_embeddings_as_training(name, tied):
    shape = ModelConfig(
        37,
        8,
        num_layers=1,
        hidden_size=256,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=256,
        tied_embeddings=tied,
    )
    trunk = prepare_qat(
        Transformer(shape, np.random.default_rng(0)), QuantizationSpec(name, name, name)
    )
    tokens = np.array([4, 0, 36, 4])
    with no_grad():
        expected = trunk.embedding(tokens[None]).data[0]
    assert ModelRunner(convert(trunk)).embed(tokens).tobytes() == expected.tobytes()


def test_rows_at_once_is_true_only_if_the_kernels_support_every_matrix():
    assert ModelRunner(convert(trained(QuantizationSpec())).trunk).rows_at_once
    assert ModelRunner(
        convert(trained(QuantizationSpec("int3-ggml-signed-g32", activations="none"))).trunk
    ).rows_at_once
    heads_only = convert(trained(QuantizationSpec(heads="int3-ggml-signed-g32")))
    assert ModelRunner(heads_only.trunk).rows_at_once and not deploy(heads_only)[0].rows_at_once


def test_a_run_with_every_kind_of_quantization_and_its_packed_model_generate_the_same_bytes(
    tmp_path,
):
    """Train, load and generate with and without drafts, then pack the model and generate again."""
    corpus = Corpus("argparse", [("argparse.py", Path(argparse.__file__).read_bytes()[:40_000])])
    recipe = preset(
        "tiny",
        heads="token_conditioned",
        draft_depth=3,
        quantization="qat",
        activations="int8-token",
        kv_cache="int4",
        weight_scales="learned-bound",
        batch_size=4,
        tokens=32 * 32 * 8,
        evaluation_tokens=0,
    )
    train(recipe, corpus, tmp_path / "run", report=lambda line: None)
    quantize(minimtp.load(tmp_path / "run"), tmp_path / "packed")
    texts = {
        tuple(
            minimtp.generate(
                minimtp.load(tmp_path / name),
                "import ",
                max_new_tokens=16,
                draft=minimtp.DraftConfig(drafter),
            )
        )
        for name in ("run", "packed")
        for drafter in ("heads", "none")
    }
    assert len(texts) == 1 and len(texts.pop()) == 16
