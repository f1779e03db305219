"""Learned steps in a model: initialization, training and storage."""

import importlib
from dataclasses import replace

import pytest

from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.precision import matmul
from minimtp.engine.tensor import Parameter
from minimtp.errors import UserError
from minimtp.model.loss import Objective, accumulate_gradients
from minimtp.model.transformer import Transformer
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq.methods import quantize_after_training
from minimtp.quant.qat.fake_quantize import FakeQuantizedMatMul
from minimtp.quant.qat.learned import FakeQuantizeLearned
from minimtp.quant.qat.modules import FakeQuantizedLinear
from minimtp.quant.qat.prepare import add_learned_step_parameters, prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training import trainer as training
from minimtp.training.data.corpus import open_corpus
from minimtp.training.presets import preset
from tests.quant.qat.cases import (
    DEPTH,
    SHAPE,
    SPEC,
    build,
    check_that_all_forms_agree,
    digest,
    each_kind,
    learned,
    text,
)


@each_kind
@pytest.mark.parametrize(
    ("scales", "grid"),
    [
        ("learned", "q4_0"),
        ("learned", "q8_0"),
        ("learned", "int2-restricted-g32"),
        ("learned", "int4-affine-g32"),
        ("learned-offset", "q4_1"),
        ("learned-bound", "q4_0"),
        ("learned-bound", "int3-restricted-g32"),
    ],
)
def test_learned_steps_survive_conversion_and_storage(plain, kind, scales, grid):
    model = learned(kind, grid, scales=scales)
    check_that_all_forms_agree(model, model.trunk.blocks[0].attention.qkv.spec, tied=True)


def test_prepare_qat_initializes_learned_steps_unless_they_are_resumed():
    model, spec = build(), QuantizationSpec(weights="int2-restricted-g32", scales="learned")
    add_learned_step_parameters(model, spec)
    steps = {name: p for name, p in model.named_parameters() if name.endswith("log_steps")}
    assert len(steps) == 4 * SHAPE.num_layers and not any(p.data.any() for p in steps.values())
    prepare_qat(model, spec)
    assert all(p.data.any() for p in steps.values())
    for value in (0.25, 0.0):  # a matrix that was 0 has log steps of 0 even after the first step
        again = build()
        add_learned_step_parameters(again, spec)
        for name, parameter in again.named_parameters():
            if name in steps:
                parameter.data[...] = value
        prepare_qat(again, spec, resumed=True)
        assert all((p.data == value).all() for name, p in again.named_parameters() if name in steps)


@pytest.mark.parametrize(
    ("scales", "grid"),
    [
        ("learned", "int3-ggml-signed-g32"),
        ("learned-offset", "q4_1"),
        ("learned-bound", "int2-restricted-g32"),
    ],
)
def test_learned_steps_get_gradients_and_no_weight_decay(scales, grid):
    model = learned("token_conditioned", grid, scales=scales)
    flat = FlatParameters(model)
    accumulate_gradients(model, text(model), Objective(np.full(DEPTH, 0.3)))
    for name, parameter in model.named_parameters():
        if name.endswith(("log_steps", "offsets")):
            place, _ = flat.places[name]
            assert parameter.grad.any() and not flat.decay_mask[place].any(), name


def test_post_training_quantization_ignores_learned_step_parameters():
    model, spec = build(), QuantizationSpec(scales="learned")
    add_learned_step_parameters(model, spec)
    batches = [text(model)]
    packed = [quantize_after_training(model, spec, method, batches) for method in ("rtn", "gptq")]
    expected = [
        quantize_after_training(build(), SPEC, method, batches) for method in ("rtn", "gptq")
    ]
    for found, without in zip(packed, expected, strict=True):
        assert digest(stored_arrays(found)) == digest(stored_arrays(without))


@pytest.mark.parametrize(
    ("scales", "grid", "names"),
    [
        ("learned-offset", "q4_1", {"log_steps", "offsets"}),
        ("learned-bound", "q4_0", {"log_steps"}),
    ],
)
def test_a_recipe_with_learned_offsets_or_bounds_initializes_and_trains_their_parameters(
    scales, grid, names
):
    """LSQ+ and PACT: the recipe creates parameters, which start at searched values instead of zero
    and change in training.
    """
    recipe = preset(
        "tiny",
        heads="parallel",
        draft_depth=1,
        quantization="qat",
        weight_grid=grid,
        head_grid=grid,
        weight_scales=scales,
        batch_size=4,
        tokens=32 * 32,
    )
    trainer, corpus = training.Trainer(recipe, None, choose_device("cpu"), 1), open_corpus()
    states = []
    for step in range(3):
        trainer.advance(
            corpus.batch(step, seed=0, batch_size=4, sequence_length=recipe.context_length, depth=1)
        )
        parameters = dict(trainer.model.named_parameters())
        states.append(
            {
                k: p.data.copy()
                for k, p in parameters.items()
                if k.split(".")[-1] in {"log_steps", "offsets"}
            }
        )
    trainer.close()
    linears = [
        name
        for name, module in trainer.model.named_modules()
        if isinstance(module, FakeQuantizedLinear)
    ]
    assert states[0].keys() == {f"{linear}.{name}" for linear in linears for name in names}
    for name, first in states[0].items():
        is_zero_matrix = name.rsplit(".", 1)[0].endswith(("attention.output", "feed_forward.down"))
        assert first.any() != is_zero_matrix, name  # these matrices start as zeros: no better step
        assert np.isfinite(states[2][name]).all() and not np.array_equal(first, states[2][name]), (
            name
        )


def test_learned_weights_that_are_not_finite_are_an_error_that_names_them():
    model = learned()
    matrix = model.blocks[0].attention.qkv
    matrix.weight.data[1, 2] = np.nan
    for use in (matrix.rounded, matrix.encode):
        with pytest.raises(
            UserError, match=r"^blocks\.0\.attention\.qkv\.weight holds values that are not finite"
        ):
            use()


@pytest.mark.parametrize(
    ("scales", "grid"), [("learned", "q4_1"), ("learned-offset", "q4_0"), ("learned-bound", "q6_k")]
)
def test_step_parameters_are_rejected_for_grids_without_a_step_or_offset(scales, grid):
    model = Transformer(
        replace(SHAPE, hidden_size=256, head_dim=None, intermediate_size=256),
        np.random.default_rng(0),
    )
    with pytest.raises(UserError, match=f"^{grid} "):
        add_learned_step_parameters(model, QuantizationSpec(weights=grid, scales=scales))


@pytest.mark.parametrize(("scales", "bound"), [("learned", False), ("learned-bound", True)])
def test_learned_steps_get_the_gradient_of_the_rule_in_the_spec(scales, bound):
    matrix = learned(grid="int2-restricted-g32", scales=scales).blocks[0].attention.qkv
    gradient = np.random.default_rng(0).standard_normal(matrix.weight.shape).astype(np.float32)
    matrix.rounded().backward(gradient)
    operation = FakeQuantizeLearned(matrix.grid, bound=bound)
    operation.forward(matrix.weight.data, matrix.log_steps.data)
    assert (
        np.array_equal(matrix.log_steps.grad, operation.backward(gradient)[1])
        and matrix.log_steps.grad.any()
    )


@pytest.mark.parametrize(
    ("scales", "grid", "function"),
    [
        ("learned", "q4_0", "learned.learned_scales"),
        ("learned-offset", "q4_1", "learned.learned_scales"),
        ("learned-bound", "int4-affine-g32", "learned.learned_scales"),
        ("learned-from-start", "q4_0", "start_steps.current_steps"),
    ],
)
def test_a_matmul_computes_scales_once_and_has_the_gradients_of_its_rounding(
    scales, grid, function, monkeypatch
):
    """The backward pass rounds the weights again, with the scales of the forward pass."""
    matrix = learned(grid=grid, scales=scales).blocks[0].attention.qkv
    if scales == "learned-from-start":
        own = matrix.grid.encode(matrix.weight.data)[1]
        matrix.start_steps.data[...] = 0.7 * own.reshape(-1)
    rng, calls = np.random.default_rng(0), []
    module, _, name = function.rpartition(".")
    module = importlib.import_module(f"minimtp.quant.qat.{module}")
    compute = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a: calls.append(name) or compute(*a))
    x, gradient = (rng.standard_normal((5, size)).astype(np.float32) for size in matrix.shape[::-1])
    inputs = Parameter(x)
    FakeQuantizedMatMul(matrix.rounding, "none").apply(inputs, *matrix.operands).backward(gradient)
    assert len(calls) == 1
    rounding = matrix.rounding()
    values = rounding.forward(*(parameter.data for parameter in matrix.operands))
    expected = rounding.backward(matmul(gradient.T, x))
    assert np.array_equal(inputs.grad, matmul(gradient, values))
    assert len(expected) == len(matrix.operands)
    for parameter, wanted in zip(matrix.operands, expected, strict=True):
        assert np.array_equal(parameter.grad, wanted) and wanted.any()
