"""Statistics of the inputs of linear layers, and the layers that collect these statistics."""

from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.quant.grids import Q4_0
from minimtp.quant.ptq.calibration import CalibratedLinear, Statistics, calibrated, collect
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.quant.ptq.cases import build, normal_weights, same, text


@given(cut=st.integers(1, 15))
@settings(max_examples=10)
def test_statistics_do_not_depend_on_how_rows_are_split_into_batches(cut):
    x = normal_weights(16, 8, spread=1.0)
    whole, parts = Statistics(), Statistics()
    whole.add(x)
    parts.add(x[:cut])
    parts.add(x[cut:])
    assert whole.rows == parts.rows == 16
    for name in ("second_moment", "importance", "magnitude"):
        assert np.allclose(getattr(whole, name), getattr(parts, name), rtol=1e-12, atol=1e-15)
    assert np.array_equal(np.diag(whole.second_moment), whole.importance)


def test_statistics_are_means_over_the_rows_in_double_precision():
    x = normal_weights(16, 8, spread=1000.0)
    statistics, precise = Statistics(), x.astype(np.float64)
    statistics.add(x)
    np.testing.assert_allclose(
        statistics.second_moment, precise.T @ precise / 16, rtol=1e-13, atol=1e-8
    )
    np.testing.assert_allclose(statistics.magnitude, np.abs(precise).mean(axis=0), rtol=1e-13)


def test_a_calibrated_layer_uses_exact_weights_until_its_codes_are_settled():
    model = prepare_qat(build(dtype=np.float32), QuantizationSpec(), linear=CalibratedLinear)
    linear = calibrated(model)["blocks.0.attention.qkv"]
    assert np.array_equal(linear.rounded().data, linear.weight.data)
    assert same(linear.encode(), Q4_0.encode(linear.weight.data))
    coarse = Q4_0.encode(0.5 * linear.weight.data)
    linear.settle(*coarse)
    assert linear.rounded().data.dtype == np.float32 and np.array_equal(
        linear.rounded().data, Q4_0.decode(*coarse)
    )
    assert same(linear.encode(), coarse)


def test_statistics_use_rounded_inputs_and_layers_that_are_already_rounded():
    model = prepare_qat(build(dtype=np.float32), QuantizationSpec(), linear=CalibratedLinear)
    batches, linears = text(model), calibrated(model)
    first, second = linears["blocks.0.attention.qkv"], linears["blocks.0.feed_forward.gate_up"]
    collect(model, [first, second], batches)
    before = second.statistics.second_moment
    levels = np.unique(np.round(np.sqrt(first.statistics.importance), 12))
    assert first.statistics.rows == second.statistics.rows == 2 * 3 * 9 and len(levels) > 1
    first.settle(*first.grid.encode(0.5 * first.weight.data))
    collect(model, [second], batches)
    assert not np.allclose(before, second.statistics.second_moment)
