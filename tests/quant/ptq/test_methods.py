"""Every method of post-training quantization, on every kind of model."""

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError
from minimtp.quant import packing
from minimtp.quant.activations import round_activations
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq import awq
from minimtp.quant.ptq.calibration import CalibratedLinear, calibrated, collect
from minimtp.quant.ptq.gptq import gptq, output_error
from minimtp.quant.ptq.hqq import hqq
from minimtp.quant.ptq.methods import METHODS, METHODS_WITH_TEXT, quantize_after_training
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.quant.ptq.cases import build, each_kind, outputs, same, text


@each_kind
@pytest.mark.parametrize("method", METHODS)
def test_every_method_packs_every_kind_of_model_and_does_not_change_the_given_one(
    plain, kind, method
):
    model = build(kind, np.float32)
    batches = text(model)
    before = outputs(model, batches[0])
    done = []
    packed = quantize_after_training(model, QuantizationSpec(), method, batches, done.append)
    assert all(
        np.array_equal(a, b) for a, b in zip(outputs(model, batches[0]), before, strict=True)
    )
    assert all(np.isfinite(part).all() for part in outputs(packed, batches[0]))
    assert len(done) == len(
        calibrated(prepare_qat(build(kind), QuantizationSpec(), linear=CalibratedLinear))
    )
    nearest = outputs(convert(prepare_qat(model, QuantizationSpec())), batches[0])
    equal = all(
        np.array_equal(a, b) for a, b in zip(outputs(packed, batches[0]), nearest, strict=True)
    )
    assert equal == (method == "rtn")


@pytest.mark.parametrize("method", METHODS)
def test_each_method_equals_its_parts_applied_layer_by_layer(plain, method):
    """For GPTQ only the first layer is compared, because later layers see the rounding of earlier
    ones. For AWQ the scales are folded into the weights first, and only the first block is
    compared, because the inputs of later ones are rounded after another scaling.
    """
    model = build("sequential", np.float32)
    batches, done = text(model), []
    packed = quantize_after_training(model, QuantizationSpec(), method, batches, done.append)
    copy = prepare_qat(build("sequential", np.float32), QuantizationSpec(), linear=CalibratedLinear)
    linears = calibrated(copy)
    assert done == list(linears)
    collect(copy, linears.values(), batches)
    if method == "awq":
        awq.scale_columns(copy)
        collect(copy, linears.values(), batches)
    deployed = {
        name: packing.unpack(module.grid, module.packed)
        for name, module in packed.named_modules()
        if name in linears
    }
    for name, linear in linears.items():
        if method == "awq" and not name.startswith("trunk.blocks.0"):
            break
        weight, statistics = linear.weight.data, linear.statistics
        searched = search_scales(Q4_0, weight, statistics.importance)
        if method == "rtn":
            expected = Q4_0.encode(weight)
        elif method == "hqq":
            expected = hqq(Q4_0, weight)
        elif method == "gptq":
            moment = statistics.second_moment
            expected = gptq(Q4_0, weight, moment, beforehand=searched, largest_first=True)
        else:
            expected = searched
        assert same(deployed[name], expected), name
        if method == "gptq":
            break  # the inputs of later layers depend on the rounding of this one


@pytest.mark.parametrize("method", METHODS)
def test_non_finite_weights_are_an_error_that_names_the_layer(method):
    model = build(dtype=np.float32)
    batches = text(model)
    model.blocks[1].feed_forward.down.weight.data[3, 5] = np.inf
    message = r"blocks\.1\.feed_forward\.down\.weight holds values that are not finite"
    if method in METHODS_WITH_TEXT:
        message = "not finite"  # calibration fails first, because outputs are not finite
    with pytest.raises(UserError, match=message):
        quantize_after_training(model, QuantizationSpec(), method, batches)


def test_the_same_calibration_text_gives_the_same_bytes():
    model = build("sequential", np.float32)
    batches = text(model)
    one, two = (
        quantize_after_training(model, QuantizationSpec(), "gptq", batches) for _ in range(2)
    )
    pairs = zip(stored_arrays(one).items(), stored_arrays(two).items(), strict=True)
    assert all(a == b and x.tobytes() == y.tobytes() for (a, x), (b, y) in pairs)


def test_an_unknown_method_or_missing_calibration_text_is_an_error_that_says_what_to_do():
    with pytest.raises(
        UserError, match="unknown method 'gpqt': use rtn, hqq, importance, awq, gptq"
    ):
        quantize_after_training(build(), QuantizationSpec(), "gpqt")
    for method in METHODS_WITH_TEXT:
        with pytest.raises(
            UserError,
            match=f"method {method} needs calibration text: give some, or use method rtn or hqq",
        ):
            quantize_after_training(build(), QuantizationSpec(), method)


@pytest.mark.parametrize("kind", ["none", "sequential"])
def test_gptq_rounds_a_tied_table_with_few_levels_for_the_states_that_it_multiplies(kind):
    model = build(kind, np.float32)
    batches, table = text(model), model.trunk.embedding.weight.data
    with no_grad():
        inputs = [batch[:, : batch.shape[1] - 1 - model.depth] for batch in batches]
        states = [round_activations(model.hidden(tokens).data, "int8") for tokens in inputs]
    second_moment = np.mean([x.T @ x / len(x) for x in (s.reshape(-1, 32) for s in states)], axis=0)
    packed = quantize_after_training(model, QuantizationSpec(embedding="q4_0"), "gptq", batches)
    found = packed.trunk.embedding.dequantize()
    moved, nearest = (
        output_error(rounded - table, second_moment)
        for rounded in (found, Q4_0.fake_quantize(table))
    )
    assert moved < 0.5 * nearest
    kept, expected = (
        packing.unpack(Q4_0, packed.trunk.embedding.packed)[1], Q4_0.encode(table)[1],
    )  # fmt: skip
    assert np.array_equal(kept, expected)


@pytest.mark.parametrize(
    ("method", "grid", "tied"),
    [("gptq", "q8_0", True), ("gptq", "q4_0", False), ("awq", "q4_0", True), ("hqq", "q4_0", True)],
)
def test_every_other_table_is_rounded_to_nearest(method, grid, tied):
    model = build(dtype=np.float32, tied_embeddings=tied)
    spec = QuantizationSpec(embedding=grid)
    packed = quantize_after_training(model, spec, method, text(model))
    expected = grid_named(grid).fake_quantize(model.trunk.embedding.weight.data)
    assert np.array_equal(packed.trunk.embedding.dequantize(), expected)
