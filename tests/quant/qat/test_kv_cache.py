"""Quantized KV cache: the rotation, its benefit, and training with the values of the cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.engine.fused import CausalAttention
from minimtp.engine.tensor import Parameter
from minimtp.errors import UserError
from minimtp.model.config import ModelConfig
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import Transformer
from minimtp.quant.grids import grid_named
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.qat.convert import convert, restore
from minimtp.quant.qat.kv_cache import (
    QuantizedCacheAttention,
    decode_rows,
    encode_rows,
    fake_quantize_rows,
    hadamard,
)
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec

SHAPE = ModelConfig(
    vocabulary_size=11,
    context_length=16,
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
)
each_cache = pytest.mark.parametrize("cache", ["int8", "int4"])


def build(seed=0):
    model = Transformer(SHAPE, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        parameter.data = (rng.standard_normal(parameter.shape) * 0.3 + ("norm" in name)).astype(
            np.float32
        )
    return model


@given(head_dim=st.integers(1, 96))
def test_the_rotation_is_orthonormal_and_mixes_the_largest_power_of_two_that_divides_head_dim(
    head_dim,
):
    matrix = hadamard(head_dim, np.zeros(1))
    assert np.allclose(matrix @ matrix.T, np.eye(head_dim), atol=1e-14)
    mixed = head_dim & -head_dim
    assert ((matrix != 0).sum(axis=0) == mixed).all() and np.allclose(
        np.abs(matrix[matrix != 0]), mixed**-0.5
    )


@given(seed=st.integers(0, 2**32), head_dim=st.sampled_from([8, 32, 48, 64]))
def test_rotating_queries_and_keys_alike_does_not_change_their_scores(seed, head_dim):
    rng = np.random.default_rng(seed)
    query, keys = rng.standard_normal((3, head_dim)), rng.standard_normal((5, head_dim))
    rotation = hadamard(head_dim, keys)
    assert np.allclose((query @ rotation) @ (keys @ rotation).T, query @ keys.T, atol=1e-12)


@given(rows=arrays.arrays(np.float32, (3, 16), elements=st.floats(-100, 100, width=32)))
def test_int8_rounding_moves_a_number_by_at_most_half_a_step_of_its_row(rows):
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    # The scale is rounded to a float16, which can be subnormal.
    slack = step * 127 * 2.0**-11 + 127 * 2.0**-25
    found = decode_rows(*encode_rows(rows, "int8"), "int8")
    assert (np.abs(found - rows) <= step / 2 * 1.001 + slack).all()


def test_the_rotation_at_least_halves_the_int4_error_if_one_channel_is_large():
    rows = np.random.default_rng(0).standard_normal((256, 32)).astype(np.float32)
    rows[:, 5] *= 30
    rotated = decode_rows(*encode_rows(rows, "int4"), "int4")
    straight = grid_named("int4-restricted-g32").fake_quantize(rows)
    assert np.square(rotated - rows).mean() < 0.5 * np.square(straight - rows).mean()


@each_cache
def test_attention_in_training_uses_exactly_the_keys_and_values_that_a_cache_would_hold(cache):
    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((2, 7, 8 * 16)).astype(np.float32)
    angles = rng.uniform(0, 6, (7, 8)).astype(np.float32)
    operation = QuantizedCacheAttention(cache, 4, 2, np.cos(angles), np.sin(angles))
    operation.forward(qkv)
    exact = CausalAttention(4, 2, np.cos(angles), np.sin(angles))
    exact.forward(qkv)
    for read, written in ((operation.key, exact.key), (operation.value, exact.value)):
        stored = decode_rows(*encode_rows(written.reshape(-1, 16), cache), cache).reshape(
            written.shape
        )
        assert np.array_equal(read, stored) and not np.array_equal(read, written)


@each_cache
def test_gradients_treat_the_rounding_errors_of_keys_and_values_as_constants(cache):
    """The straight-through surrogate is differentiated numerically in a random direction."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 6, (7, 8))
    rotary = np.cos(angles), np.sin(angles)
    qkv = Parameter(rng.standard_normal((2, 7, 8 * 16)))
    gradient = rng.standard_normal((2, 7, 4 * 16))
    QuantizedCacheAttention(cache, 4, 2, *rotary).apply(qkv).backward(gradient)
    rounded, exact = QuantizedCacheAttention(cache, 4, 2, *rotary), CausalAttention(4, 2, *rotary)
    rounded.forward(qkv.data)
    exact.forward(qkv.data)
    errors = [rounded.key - exact.key, rounded.value - exact.value]

    def surrogate(inputs):
        operation, left = CausalAttention(4, 2, *rotary), list(errors)
        operation.quantize_kv = lambda rows: rows + left.pop(0)
        return (operation.forward(inputs) * gradient).sum()

    direction, h = rng.standard_normal(qkv.shape), 1e-5
    slope = (surrogate(qkv.data + h * direction) - surrogate(qkv.data - h * direction)) / (2 * h)
    assert (qkv.grad * direction).sum() == pytest.approx(slope, rel=1e-7)


@each_cache
def test_packed_and_restored_models_have_the_losses_of_training_with_a_quantized_cache(cache):
    kernels.use("plain")
    try:
        spec = QuantizationSpec(cache=cache)
        model = prepare_qat(build(), spec)
        tokens = np.random.default_rng(1).integers(0, 11, (3, 10))
        packed = convert(model)
        restored = restore(
            build(9), spec, {name: a.copy() for name, a in stored_arrays(packed).items()}
        )
        losses = [evaluate_losses(each, tokens)[0] for each in (model, packed, restored)]
        assert losses[0].tobytes() == losses[1].tobytes() == losses[2].tobytes()
        floats = evaluate_losses(prepare_qat(build(), QuantizationSpec()), tokens)[0]
        assert not np.array_equal(floats, losses[0]) and np.allclose(floats, losses[0], atol=1.0)
    finally:
        kernels.use("auto")


def test_non_finite_keys_are_an_error():
    with pytest.raises(UserError, match="the cache holds values that are not finite"):
        QuantizedCacheAttention("int8", 1, 1, np.ones((2, 2)), np.zeros((2, 2))).forward(
            np.full((1, 2, 12), np.nan)
        )


def test_an_unknown_cache_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown cache 'int2': use float, int8, int4"):
        QuantizationSpec(cache="int2")


@each_cache
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounded_cache_rows_keep_their_shape_and_dtype_and_do_not_depend_on_other_rows(
    cache, dtype
):
    rows = np.random.default_rng(0).standard_normal((2, 3, 16)).astype(dtype)
    back = fake_quantize_rows(rows, cache)
    assert back.dtype == dtype and back.shape == rows.shape and hadamard(16, rows).dtype == dtype
    alone = np.stack([fake_quantize_rows(row[None], cache)[0] for row in rows.reshape(-1, 16)])
    assert np.array_equal(back.reshape(-1, 16), alone)
