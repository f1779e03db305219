"""The deployed trunk computes what the training model computes, whatever the pieces it is fed in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.decode.runtime import Runtime
from minimtp.engine.module import map_parameters
from minimtp.model.transformer import Shape, Transformer
from minimtp.quant.ptq import round_to_nearest
from minimtp.quant.qat import QuantizationSpec, prepare

SHAPE = Shape(vocabulary_size=40, context=24, layers=2, width=64, attention_heads=4, key_value_heads=2, feed_forward=96)
TEXT = np.random.default_rng(3).integers(0, SHAPE.vocabulary_size, 24)


def trunk(tied=True, dtype=np.float32):
    model = Transformer(Shape(**{**vars(SHAPE), "tied_embeddings": tied}), np.random.default_rng(0))
    noise = np.random.default_rng(1)  # nothing stays at its starting value of zero or one
    map_parameters(model, lambda array: (array + 0.2 * noise.standard_normal(array.shape)).astype(dtype))
    return model


def feed(runtime, pieces):
    logits, start = [], 0
    for piece in pieces:
        logits.append(runtime.forward(TEXT[start : start + piece]).logits)
        start += piece
    return np.concatenate(logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pieces", [[24], [1] * 24, [7, 1, 9, 7]])
def test_pieces_through_the_cache_give_the_logits_of_the_whole_sequence_in_float64(tied, pieces):
    model = trunk(tied, np.float64)
    expected = model.logits(model.hidden(TEXT[None])).data[0]
    np.testing.assert_allclose(feed(Runtime(model), pieces), expected, rtol=0, atol=1e-12)


def test_a_packed_trunk_gives_the_logits_of_the_fake_quantized_one():
    model = trunk()
    packed = round_to_nearest(model, QuantizationSpec())
    faked = prepare(model, QuantizationSpec())
    expected = faked.logits(faked.hidden(TEXT[None])).data[0]
    np.testing.assert_allclose(feed(Runtime(packed), [24]), expected, rtol=0, atol=2e-4 * np.abs(expected).max())


@pytest.mark.skipif(kernels.describe()[0] != "cpu", reason="Numba is missing: plain products go through BLAS, whose bits vary")
@pytest.mark.parametrize("kind", ["float32", "packed"])
@given(pieces=st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_compiled_logits_are_the_same_bits_whatever_the_pieces(kind, pieces):
    model = trunk() if kind == "float32" else round_to_nearest(trunk(), QuantizationSpec())
    runtime, total, kept = Runtime(model), 0, []
    for piece in pieces:
        if total + piece <= 24:
            kept.append(piece)
            total += piece
    together = feed(runtime, kept)
    runtime.truncate(0)
    assert np.array_equal(together, feed(runtime, [1] * total))


def test_truncating_and_feeding_again_is_as_if_the_forgotten_tokens_had_never_been_fed():
    runtime = Runtime(trunk(dtype=np.float64))
    feed(runtime, [6])
    runtime.forward(TEXT[12:20])
    runtime.truncate(6)
    again = runtime.forward(TEXT[6:10]).logits
    np.testing.assert_allclose(again, feed(Runtime(trunk(dtype=np.float64)), [10])[6:], rtol=0, atol=1e-12)


def test_a_model_in_training_for_4_bits_has_to_be_converted_first():
    with pytest.raises(TypeError, match="convert the model first"):
        Runtime(prepare(trunk(), QuantizationSpec()))


def test_tokens_beyond_the_context_are_an_error():
    runtime = Runtime(trunk())
    feed(runtime, [20])
    with pytest.raises(ValueError, match="do not fit"):
        runtime.forward(TEXT[:8])
