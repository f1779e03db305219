"""Fake-quantized modules round their weights at every use and pass gradients straight through."""

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.engine.fused import EmbeddingLookup, LinearMatMul
from minimtp.engine.module import replicate
from minimtp.engine.tensor import Tensor
from minimtp.errors import UserError
from minimtp.model.layers import Embedding
from minimtp.model.loss import Objective, accumulate_gradients, evaluate_losses
from minimtp.quant.activations import round_activations
from minimtp.quant.grids import MASKS, Q4_0, grid_named
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import SCALES, QuantizationSpec
from tests.helpers.heads import OWN_OUTPUT, WITH_LAYERS
from tests.quant.qat.cases import (
    SHAPE,
    SPEC,
    build,
    each_kind,
    learned,
    outputs,
    peak_memory_of_a_step,
    same_bits,
    text,
    tied_or_not,
    with_rounded_parameters,
)


@pytest.mark.parametrize("name", ["q4_0", "q8_0", "q4_1", "int3-ggml-signed-g32", "nf4-g32"])
@pytest.mark.parametrize("kind", ["sequential", "token_conditioned"])
def test_state_and_token_have_separate_scales_in_the_matrix_that_joins_them(kind, name):
    """If the group size divides hidden_size, no group covers parts of both halves of the input."""
    heads, grid = build(kind).heads, grid_named(name)
    joined = heads.steps[0].join if kind == "sequential" else heads.head.gate_candidate
    weight = joined.weight.data.copy()
    weight[:, SHAPE.hidden_size :] *= 100  # the two halves can have different magnitudes
    halves = [
        grid.fake_quantize(weight[:, : SHAPE.hidden_size]),
        grid.fake_quantize(weight[:, SHAPE.hidden_size :]),
    ]
    assert np.array_equal(grid.fake_quantize(weight), np.concatenate(halves, axis=1))


def test_counter_example_rows_as_groups_share_one_scale_between_state_and_token():
    grid = grid_named("int4-restricted-channel")
    weight = build("sequential").heads.steps[0].join.weight.data.copy()
    weight[:, SHAPE.hidden_size :] *= 100
    smaller_half = grid.fake_quantize(weight)[:, : SHAPE.hidden_size]
    assert not smaller_half.any()


@each_kind
@tied_or_not
def test_every_weight_is_rounded_exactly_once_and_a_tied_table_is_the_same_as_input_and_output(
    plain, kind, tied
):
    """So a prepared model equals the full-precision architecture with rounded parameters."""
    model = build(kind, tied)
    clone = with_rounded_parameters(model)
    prepare_qat(model, QuantizationSpec(activations="none"))
    tokens = text(model)
    assert same_bits(outputs(model, tokens), outputs(clone, tokens))


@each_kind
def test_every_linear_layer_rounds_its_activations(plain, kind):
    model = build(kind)
    tokens = text(model)
    prepared = prepare_qat(replicate(model), SPEC)
    seen = []
    original = kernels.plain.fake_quantize_activations
    kernels.plain.fake_quantize_activations = lambda x: seen.append(x.shape) or original(x)
    try:
        evaluate_losses(prepared, tokens)
    finally:
        kernels.plain.fake_quantize_activations = original
    per_head = {"none": 0, "parallel": 4, "sequential": 5, "token_conditioned": 1, "eagle3": 4}
    per_head |= {WITH_LAYERS: 3, OWN_OUTPUT: 4}
    # Every head also uses an output matrix, and what reads several layers joins them once.
    of_heads = model.depth * (per_head[kind] + 1) + (kind in ("eagle3", WITH_LAYERS, OWN_OUTPUT))
    assert len(seen) == 4 * SHAPE.num_layers + 1 + of_heads


@each_kind
@tied_or_not
def test_straight_through_gradients_equal_the_gradients_of_the_rounded_model(plain, kind, tied):
    """With the mask `pass`, master weights receive the gradients of the rounded weights."""
    model = build(kind, tied)
    clone = with_rounded_parameters(model)
    prepare_qat(model, QuantizationSpec(activations="none", straight_through="pass"))
    tokens, weights = text(model), np.full(model.depth, 0.3)
    losses = [accumulate_gradients(m, tokens, Objective(weights)) for m in (model, clone)]
    assert losses[0].tobytes() == losses[1].tobytes()
    for (name, parameter), (_, expected) in zip(
        model.named_parameters(), clone.named_parameters(), strict=True
    ):
        assert np.array_equal(parameter.grad, expected.grad) and parameter.grad.any(), name


def test_the_mask_of_the_spec_stops_gradients_of_clipped_weights(plain):
    def gradient(mask):
        model = prepare_qat(build(), QuantizationSpec(straight_through=mask))
        accumulate_gradients(model, text(model))
        return model.blocks[0].feed_forward.gate_up.weight

    passed, stopped = gradient("pass"), gradient("round-clip")
    inside = Q4_0.straight_through_mask(passed.data, "round-clip")
    assert not inside.all() and np.array_equal(stopped.grad, passed.grad * inside)


def test_non_finite_weights_are_an_error_that_names_them():
    model = prepare_qat(build("sequential"), SPEC)
    model.heads.steps[1].join.weight.data[3, 4] = np.inf
    for use in (convert, lambda m: outputs(m, text(m))):
        with pytest.raises(
            UserError, match=r"heads\.steps\.1\.join\.weight holds values that are not finite"
        ):
            use(model)


@pytest.mark.parametrize("activations", ["int8", "int8-token", "none"])
@pytest.mark.parametrize("scales", SCALES)
def test_a_fake_quantized_matmul_equals_the_matmul_of_rounded_inputs_and_so_do_its_gradients(
    scales, activations
):
    grid = grid_named("q4_1" if scales == "learned-offset" else "q4_0")
    matrix = learned(grid=grid.name, scales=scales, activations=activations).blocks[0].attention.qkv
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((2, 3, 32)).astype(np.float32), requires_grad=True)
    gradient = rng.standard_normal((2, 3, len(matrix.weight.data))).astype(np.float32)
    y = matrix.matmul(x)
    y.backward(gradient)
    found = [y.data, x.grad, *(operand.grad.copy() for operand in matrix.operands)]

    seen = Tensor(round_activations(x.data, activations), requires_grad=True)
    for operand in matrix.operands:
        operand.grad = None
    expected = LinearMatMul().apply(seen, matrix.rounded())
    expected.backward(gradient)
    assert same_bits(
        found, [expected.data, seen.grad, *(operand.grad for operand in matrix.operands)]
    )


@pytest.mark.parametrize("mask", MASKS)
def test_a_fake_quantized_lookup_equals_a_lookup_in_the_rounded_table_and_so_do_its_gradients(mask):
    table = prepare_qat(
        Embedding(11, 32, np.random.default_rng(0)),
        QuantizationSpec(embedding="q4_0", straight_through=mask),
    )
    tokens, found = np.array([[3, 3, 0], [10, 1, 3]]), []
    gradient = np.random.default_rng(1).standard_normal((2, 3, 32)).astype(np.float32)
    for lookup in (table, lambda tokens: EmbeddingLookup(tokens).apply(table.rounded())):
        table.weight.grad, looked_up = None, lookup(tokens)
        looked_up.backward(gradient)
        found.append([looked_up.data, table.weight.grad])
    assert same_bits(*found)


@pytest.mark.parametrize("heads", ["none", "sequential"])
def test_fake_quantization_adds_at_most_one_bit_per_weight_to_the_memory_of_a_training_step(heads):
    settings = {"heads": heads, "draft_depth": 0 if heads == "none" else 2}
    peak, weights = peak_memory_of_a_step(**settings)
    assert peak_memory_of_a_step(quantization="qat", **settings)[0] <= peak + weights / 8
