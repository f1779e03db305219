"""prepare_qat replaces matrices, keeps parameters, and rejects shapes that a grid cannot store."""

from dataclasses import replace

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import replicate
from minimtp.engine.optim import AdamW
from minimtp.errors import UserError
from minimtp.model.layers import Embedding, Linear
from minimtp.model.loss import Objective, accumulate_gradients, evaluate_losses
from minimtp.model.transformer import Transformer
from minimtp.quant.grids import Q4_0, Q8_0
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.modules import FakeQuantizedMatrix
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.quant.qat.cases import (
    DEPTH,
    SHAPE,
    SPEC,
    build,
    each_kind,
    grid_by_name,
    outputs,
    same_bits,
    text,
    tied_or_not,
)


@pytest.mark.parametrize("columns", ["hidden_size", "intermediate_size"])
def test_inputs_that_are_not_whole_groups_of_32_are_rejected_before_anything_is_replaced(columns):
    model = Transformer(replace(SHAPE, **{columns: 40}), np.random.default_rng(0))
    grid = "int4-restricted-channel"
    rounded = QuantizationSpec(weights=grid, embedding=grid, heads=grid)
    name = "blocks.0.feed_forward.down" if columns == "intermediate_size" else "embedding"
    with pytest.raises(
        UserError, match=rf"^{name}.weight has rows of 40, .*groups of 32: .*multiples of 32"
    ):
        prepare_qat(model, rounded)
    assert not any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules())
    for fitting in (
        replace(rounded, activations="int8-token"),
        QuantizationSpec("f16", "f16", "f16"),
    ):
        packed = convert(prepare_qat(Transformer(model.config, np.random.default_rng(0)), fitting))
        assert np.isfinite(evaluate_losses(packed, text(packed))[0]).all()


def test_an_untied_output_can_have_its_own_grid():
    model = prepare_qat(build("parallel", tied=False), QuantizationSpec(output="int6-full-mid-g16"))
    assert (
        model.trunk.output.grid.name == "int6-full-mid-g16" and model.trunk.embedding.grid is Q8_0
    )


@each_kind
@tied_or_not
def test_preparing_keeps_every_parameter_and_its_name(kind, tied):
    model = build(kind, tied)
    before = dict(model.named_parameters())
    assert prepare_qat(model, SPEC) is model
    after = dict(model.named_parameters())
    assert list(before) == list(after) and all(before[name] is after[name] for name in before)
    assert not any(isinstance(module, Linear | Embedding) for _, module in model.named_modules())


@each_kind
@tied_or_not
def test_trunk_heads_and_tables_get_the_grids_of_the_spec(kind, tied):
    model = prepare_qat(
        build(kind, tied), QuantizationSpec(weights="q8_0", embedding="q4_0", heads="q4_0")
    )
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizedMatrix):
            in_trunk_block = name.removeprefix("trunk.").startswith("blocks.")
            assert module.grid is (Q8_0 if in_trunk_block else Q4_0), name
            assert dict(model.named_parameters())[f"{module.name}.weight"] is module.weight
    model = prepare_qat(build(kind, tied), SPEC)
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizedMatrix):
            assert module.grid is grid_by_name(f"{name}.weight"), name


@pytest.mark.parametrize("flat_first", [True, False])
def test_the_optimizer_updates_prepared_models_that_were_flattened_before_or_after(
    plain, flat_first
):
    model = build("token_conditioned")
    if flat_first:
        flat = FlatParameters(model)
        prepare_qat(model, SPEC)
    else:
        prepare_qat(model, SPEC)
        flat = FlatParameters(model)
    tokens, weights, optimizer = text(model), np.full(DEPTH, 0.3), AdamW(flat)
    losses = []
    for _ in range(12):
        flat.gradients[...] = 0
        losses.append(accumulate_gradients(model, tokens, Objective(weights))[0])
        optimizer.step(1e-2)
    assert losses[-1] < 0.5 * losses[0]
    reference = prepare_qat(build("token_conditioned"), SPEC)
    for (_, parameter), (_, moved) in zip(
        reference.named_parameters(), model.named_parameters(), strict=True
    ):
        parameter.data = moved.data.copy()
    assert same_bits(outputs(model, tokens), outputs(reference, tokens))


def test_a_replica_of_a_prepared_model_rounds_the_shared_weights(plain):
    model = prepare_qat(build(), SPEC)
    replica = replicate(model)
    model.embedding.weight.data[...] *= 3
    assert same_bits(outputs(model, text(model)), outputs(replica, text(model)))


@pytest.mark.parametrize(
    ("size", "value", "name"),
    [("intermediate_size", 40, "blocks.0.feed_forward.down"), ("hidden_size", 48, "embedding")],
)
def test_rows_that_are_not_whole_groups_are_an_error_that_names_the_module(size, value, name):
    model = Transformer(replace(SHAPE, **{size: value}), np.random.default_rng(0))
    with pytest.raises(
        UserError, match=rf"^{name}.weight has shape \(\d+, {value}\), .* multiples of 32 long"
    ):
        prepare_qat(model, SPEC)
    assert isinstance(model.embedding, Embedding) and isinstance(
        model.blocks[0].attention.qkv, Linear
    )


def test_preparing_a_model_twice_or_converting_an_unprepared_one_is_an_error():
    model = build()
    with pytest.raises(ValueError, match="call prepare_qat on the model first"):
        convert(model)
    prepare_qat(model, SPEC)
    for quantized in (model, convert(model)):
        with pytest.raises(ValueError, match="already quantized"):
            prepare_qat(quantized, SPEC)
