"""AWQ: scaling columns does not change the model's outputs and protects large inputs."""

import pytest

from minimtp.backend import numpy as np
from minimtp.quant.grids import Q4_0
from minimtp.quant.ptq import awq
from minimtp.quant.ptq.calibration import CalibratedLinear, Statistics, calibrated, collect
from minimtp.quant.ptq.gptq import output_error
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.helpers.heads import KINDS, WITH_LAYERS
from tests.quant.ptq.cases import build, each_kind, normal_weights, outputs, text

FAMILIES = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 16},
    "untied": {"tied_embeddings": False},
}


@each_kind
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_scaling_columns_does_not_change_the_outputs_before_rounding(kind, num_kv_heads, family):
    """The model is float64, in which hundreds of rounding errors add up to less than 1e-10. Every
    kind of prediction head, every number of key/value heads and every family is tested.
    """
    model = build(kind, num_kv_heads=num_kv_heads, **FAMILIES[family])
    batches = text(model)
    copy = prepare_qat(
        model, QuantizationSpec(embedding="q8_0", activations="none"), linear=CalibratedLinear
    )
    before = outputs(copy, batches[0])
    weights = {name: linear.weight.data.copy() for name, linear in calibrated(copy).items()}
    collect(copy, calibrated(copy).values(), batches)
    awq.scale_columns(copy)
    for found, expected in zip(outputs(copy, batches[0]), before, strict=True):
        assert np.allclose(found, expected, rtol=1e-10, atol=1e-10)
    changed = [
        name
        for name, linear in calibrated(copy).items()
        if not np.array_equal(weights[name], linear.weight.data)
    ]
    assert len(changed) > 0.5 * len(weights)


def test_every_linear_layer_of_every_model_can_be_scaled_but_one_that_reads_a_shared_state():
    for kind in ("none", *KINDS):
        model = prepare_qat(build(kind), QuantizationSpec(), linear=CalibratedLinear)
        scaled = {id(fold.linear) for fold in awq.folds(model)}
        shared = {"heads.fc"} if kind == WITH_LAYERS else set()
        others = calibrated(model).items()
        assert scaled == {id(linear) for name, linear in others if name not in shared}, kind


def test_column_scales_are_centred_on_one_and_protect_large_inputs():
    x, statistics = normal_weights(32, 64), Statistics()
    inputs = np.random.default_rng(0).standard_normal((256, 64))
    inputs[:, 5] *= 30
    statistics.add(inputs)
    scales = awq.column_scales(Q4_0, x, statistics, lambda magnitudes: magnitudes)
    assert (
        scales.max() * scales.min() == pytest.approx(1.0, rel=1e-9)
        and scales.argmax() == 5
        and scales[5] > 2
    )


def test_column_scales_use_the_exponent_of_twenty_with_the_smallest_output_error():
    x, statistics = normal_weights(16, 64), Statistics()
    inputs = np.random.default_rng(3).standard_normal((256, 64)) * np.exp(
        np.random.default_rng(4).standard_normal(64)
    )
    inputs[:, 7] *= 1e-9  # almost zero: treated as 1e-4 of the largest magnitude
    statistics.add(inputs)
    magnitude = np.maximum(statistics.magnitude, 1e-4 * statistics.magnitude.max())
    errors, scales = [], []
    for exponent in range(20):
        s = magnitude ** (exponent / 20)
        scales.append(s / np.sqrt(s.max() * s.min()))
        rounded = Q4_0.fake_quantize((x * scales[-1]).astype(np.float32))
        errors.append(output_error(rounded / scales[-1] - x, statistics.second_moment))
    found = awq.column_scales(Q4_0, x, statistics, lambda magnitudes: magnitudes)
    assert 0 < np.argmin(errors) and np.array_equal(found, scales[int(np.argmin(errors))])


def test_query_heads_that_share_a_value_head_use_the_mean_of_their_input_magnitudes():
    for num_kv_heads in (1, 2, 4):
        model = prepare_qat(
            build(num_kv_heads=num_kv_heads), QuantizationSpec(), linear=CalibratedLinear
        )
        block = model.blocks[0]
        tie = next(fold.tie for fold in awq.folds(model) if fold.linear is block.attention.output)
        magnitudes = np.random.default_rng(0).exponential(size=32)  # 4 query heads of 8
        by_head = magnitudes.reshape(num_kv_heads, -1, 8)
        expected = np.repeat(by_head.mean(axis=1, keepdims=True), by_head.shape[1], axis=1).reshape(
            -1
        )
        np.testing.assert_allclose(tie(magnitudes), expected, rtol=1e-12)


def test_an_input_that_is_always_zero_gives_finite_scales():
    statistics = Statistics()
    statistics.add(np.zeros((4, 64)))
    assert np.isfinite(
        awq.column_scales(Q4_0, normal_weights(4, 64), statistics, lambda magnitudes: magnitudes)
    ).all()
