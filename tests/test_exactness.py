"""Drafted text is the model's own: token for token, for every kind of head, in the precision that really runs."""

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.decode.deploy import deploy
from minimtp.decode.generate import generate
from minimtp.decode.sampling import Law
from minimtp.engine.module import map_parameters
from minimtp.model.heads import HEADS, MultiTokenModel
from minimtp.model.transformer import Shape, Transformer
from minimtp.quant.ptq import round_to_nearest
from minimtp.quant.qat import QuantizationSpec

SHAPE = Shape(vocabulary_size=61, context=96, layers=2, width=32, attention_heads=4, key_value_heads=2, feed_forward=64)
compiled = pytest.mark.skipif(kernels.describe()[0] != "cpu", reason="Numba is missing: plain float32 products vary by shape")


def decoder(kind, form):
    rng = np.random.default_rng(3)
    model = MultiTokenModel(Transformer(SHAPE, rng), HEADS[kind](5, SHAPE, rng))
    dtype = np.float64 if form == "float64" else np.float32
    map_parameters(model, lambda array: (array + 0.3 * rng.standard_normal(array.shape)).astype(dtype))
    return deploy(round_to_nearest(model, QuantizationSpec()) if form == "int4" else model)


def count_equal(kind, form, prompts, rule, law):
    """How many of `prompts` random prompts, continued to the context's end, read the same with and without drafts."""
    target, drafter = decoder(kind, form)
    rng, equal = np.random.default_rng(4), 0
    for seed in range(prompts):
        prompt = rng.integers(0, SHAPE.vocabulary_size, rng.integers(1, 20))
        texts = []
        for depth in (0, int(rng.integers(1, drafter.max_depth + 1))):
            run = generate(target, drafter, prompt, max_new=90, law=law, seed=seed, draft_depth=depth, rule=rule)
            list(run)
            texts.append(run.tokens)
        equal += texts[0] == texts[1]
    return equal


FORMS = ["float64", pytest.param("float32", marks=compiled), pytest.param("int4", marks=compiled)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", HEADS)
def test_greedy_text_is_the_same_with_and_without_drafts(kind, form):
    assert count_equal(kind, form, 4, "token", Law(0.0)) == 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", HEADS)
def test_with_shared_noise_sampled_text_is_the_same_with_and_without_drafts(kind, form):
    assert count_equal(kind, form, 4, "shared-noise", Law(0.8)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rule", "temperature"), [("token", 0.0), ("shared-noise", 0.7), ("shared-noise", 1.3)])
@pytest.mark.parametrize("kind", HEADS)
def test_a_hundred_texts_are_the_same_with_and_without_drafts(kind, form, rule, temperature):
    assert count_equal(kind, form, 100, rule, Law(temperature)) == 100
