"""Training from the codes and steps of a packed matrix: rounding, gradients and storage."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import freeze
from minimtp.engine.tensor import Parameter, Tensor
from minimtp.errors import UserError
from minimtp.model.loss import Objective, accumulate_gradients
from minimtp.model.transformer import Transformer
from minimtp.quant import packing
from minimtp.quant.grids import grid_named
from minimtp.quant.grids.scales import is_code_times_step, per_weight
from minimtp.quant.qat.modules import FrozenEmbedding, LinearFromStart
from minimtp.quant.qat.prepare import add_learned_step_parameters, prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.quant.qat.start_steps import (
    REACH,
    FakeQuantizeFromStart,
    current_steps,
    encode_from_start,
    masters_and_steps,
)
from tests.quant.qat.cases import (
    SHAPE,
    build,
    check_that_all_forms_agree,
    each_kind,
    outputs,
    same_bits,
    text,
)

NAMES = (
    "q4_0", "q8_0", "int4-ggml-signed-g24", "int3-restricted-channel", "int2-full-mid-tensor",
    "int4-restricted-g32-f32", "ternary-g32",
)  # fmt: skip
each_grid = pytest.mark.parametrize("grid", [grid_named(name) for name in NAMES], ids=str)
H = 1e-4
COLUMNS = 64


def packed_matrix(grid, seed=0, spread=0.3):
    """Return a packed matrix (4, 64) whose codes and steps no rule of the grid would choose."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(grid.min_code, grid.max_code + 1, (4, COLUMNS)).astype(np.int8)
    steps = (spread * rng.standard_normal(grid.scales_shape(4, COLUMNS))).astype(np.float16)
    if steps.size > 1:
        steps[0, 0] = 0  # a group of zeros
    return packing.pack(grid, codes, steps.astype(np.float32))


def weights(seed=1):
    return np.random.default_rng(seed).standard_normal((4, COLUMNS)).astype(np.float32)


def of_columns(grid, steps):
    """Repeat the steps for each weight: (4, 64)."""
    return np.broadcast_to(per_weight(grid, steps, COLUMNS), (4, COLUMNS))


@each_grid
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([1e-6, 1e-3, 0.3, 100.0]))
def test_before_the_first_update_the_levels_are_the_packed_ones(own, grid, seed, spread):
    packed = packed_matrix(grid, seed, spread)
    master, steps = masters_and_steps(grid, weights(seed), packed)
    zeros = np.zeros(steps.size, np.float32)
    found = own(FakeQuantizeFromStart)(grid, steps).apply(Parameter(master), Parameter(zeros))
    # A sum with 0 makes negative zeros positive: codes of 0 times a negative step.
    assert (found.data + 0).tobytes() == (packing.dequantize(grid, packed) + 0).tobytes()
    assert np.array_equal(
        packing.dequantize(
            grid, packing.pack(grid, *encode_from_start(grid, master, steps, zeros))
        ),
        packing.dequantize(grid, packed),
    )


@each_grid
def test_a_master_is_the_weight_as_far_as_the_reach_and_the_outermost_levels_allow(grid):
    packed = packed_matrix(grid)
    weight = weights()
    value = packing.dequantize(grid, packed)
    weight[:, ::2] = value[:, ::2] * np.float32(0.999)  # within reach
    master, steps = masters_and_steps(grid, weight, packed)
    step = of_columns(grid, packing.unpack(grid, packed)[1])
    assert steps.ndim == 1 and np.array_equal(steps, packing.unpack(grid, packed)[1].reshape(-1))
    assert (np.abs(master - value) <= np.abs(step) * (REACH + 1e-4)).all()
    ends = grid.min_code * step, grid.max_code * step
    low, high = np.minimum(*ends), np.maximum(*ends)
    assert ((master >= low) & (master <= high)).all()
    near = np.abs(weight - value) < np.abs(step) * (REACH - 1e-4)
    near &= (weight >= low) & (weight <= high)
    assert near.any() and np.array_equal(master[near], weight[near])
    moved = ~near & (step != 0)
    between = np.minimum(weight, value) - 1e-6, np.maximum(weight, value) + 1e-6
    assert moved.any() and ((master >= between[0]) & (master <= between[1]))[moved].all()


@each_grid
@given(seed=st.integers(0, 2**32), log_factor=st.sampled_from([0.01, 0.3, 5.0, 30.0, -30.0]))
def test_training_sees_the_steps_that_a_file_stores(own, grid, seed, log_factor):
    """The levels of the forward pass are the packed values, for any weights and learned steps."""
    _, steps = masters_and_steps(grid, weights(), packed_matrix(grid, seed))
    rng = np.random.default_rng(seed)
    weight = (3 * rng.standard_normal((4, COLUMNS))).astype(np.float32)
    t = (log_factor * rng.random(steps.size)).astype(np.float32)
    found = own(FakeQuantizeFromStart)(grid, steps).forward(weight, t)
    packed = packing.pack(grid, *encode_from_start(grid, weight, steps, t))
    assert np.array_equal(packing.dequantize(grid, packed), found)


@each_grid
def test_learned_steps_keep_their_sign_and_follow_the_exponential(grid):
    steps = masters_and_steps(grid, weights(), packed_matrix(grid))[1]
    t = np.random.default_rng(0).uniform(-1, 1, steps.size).astype(np.float32)
    now = current_steps(grid, (4, COLUMNS), steps, t).reshape(-1)
    np.testing.assert_allclose(now, steps * np.exp(t), rtol=2**-10)
    assert np.array_equal(np.sign(now), np.sign(steps))


@each_grid
@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.2])
def test_gradients_are_the_derivatives_of_the_lsq_surrogate(own, grid, shift):
    """The surrogate holds constant the rounding errors in steps and the set of clipped weights."""
    steps = masters_and_steps(grid, weights(), packed_matrix(grid))[1]
    t = np.full(steps.size, shift)
    x = np.random.default_rng(3).standard_normal((4, COLUMNS))
    step = of_columns(grid, current_steps(grid, x.shape, steps, t))
    ends = np.float32(grid.min_code) * step, np.float32(grid.max_code) * step
    x[:, 1::8], x[:, 2::8] = ends[0][:, 1::8], ends[1][:, 2::8]
    gradient = np.random.default_rng(2).standard_normal(x.shape)
    weight, log_steps = Parameter(x.copy()), Parameter(t.copy())
    output = own(FakeQuantizeFromStart)(grid, steps).apply(weight, log_steps)
    output.backward(gradient)
    level = np.float64(encode_from_start(grid, x, steps, t)[0]) * step
    inside = (x >= np.minimum(*ends)) & (x <= np.maximum(*ends))
    error = level - np.where(inside, x, 0.0)  # held constant in steps, so it grows with the step

    def surrogate(w, log_step):
        grown = np.exp(of_columns(grid, (log_step - t).reshape(grid.scales_shape(*x.shape))))
        return np.where(inside, w, 0.0) + grown * error

    assert np.abs(output.data - surrogate(x, t)).max() <= 1e-6 * np.abs(x).max()
    assert np.array_equal(weight.grad, np.where(inside, gradient, 0.0))
    slope = (surrogate(x, t + H) - surrogate(x, t - H)) / (2 * H) * gradient  # (4, 64)
    for group, found in enumerate(log_steps.grad):
        mask = of_columns(
            grid, (np.arange(steps.size) == group).reshape(grid.scales_shape(*x.shape))
        )
        assert abs(slope[mask].sum() - found) <= 1e-6 * max(1.0, np.abs(slope[mask]).sum())
    assert not inside.all() and inside.any()


def test_weights_that_are_not_finite_are_an_error_that_names_them(own):
    grid = grid_named("q4_0")
    steps = np.ones(8, np.float32)
    weight = weights()
    weight[1, 2] = np.nan
    with pytest.raises(UserError, match=r"^up\.weight holds values that are not finite"):
        own(FakeQuantizeFromStart)(grid, steps, "up.weight").forward(weight, np.zeros(8))
    with pytest.raises(UserError, match=r"^up\.weight holds values that are not finite"):
        encode_from_start(grid, weight, steps, np.zeros(8), "up.weight")


@pytest.mark.parametrize(
    "name", ["q4_1", "q4_k", "q6_k", "f16", "nf4-g32", "int4-affine-g32", "int4-affine-channel"]
)
def test_grids_whose_values_are_not_codes_times_one_step_are_refused_by_name(name):
    assert not is_code_times_step(grid_named(name))
    shape = replace(SHAPE, hidden_size=256, head_dim=None, intermediate_size=256)
    model = Transformer(shape, np.random.default_rng(0))
    spec = QuantizationSpec(weights=name, activations="none", scales="learned-from-start")
    with pytest.raises(UserError, match=f"is on the grid {name}, whose values are not a code"):
        add_learned_step_parameters(model, spec)


@each_grid
def test_grids_of_codes_times_steps_are_recognized(grid):
    assert is_code_times_step(grid)


def model_from_start(kind="none", grid="q4_0", seed=3):
    """Return a fake-quantized model with random start steps and learned steps."""
    model = build(kind)
    spec = QuantizationSpec(weights=grid, heads="q4_0", scales="learned-from-start")
    add_learned_step_parameters(model, spec)
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("start_steps"):
            parameter.data[...] = (0.1 * rng.standard_normal(parameter.shape)).astype(np.float16)
        elif name.endswith("log_steps"):
            parameter.data[...] = rng.uniform(-0.3, 0.3, parameter.shape)
    return prepare_qat(model, spec)


@each_kind
@pytest.mark.parametrize("grid", ["q4_0", "q8_0", "int3-restricted-channel"])
def test_start_steps_survive_conversion_and_storage(plain, kind, grid):
    model = model_from_start(kind, grid)
    check_that_all_forms_agree(model, model.trunk.blocks[0].attention.qkv.spec, tied=True)


@each_kind
def test_the_trunk_trains_its_steps_from_the_start_and_heads_use_the_rule_of_their_grid(kind):
    model = model_from_start(kind)
    flat = FlatParameters(model)
    from_start = {n for n, m in model.named_modules() if isinstance(m, LinearFromStart)}
    assert len(from_start) == 4 * SHAPE.num_layers and not any("heads" in n for n in from_start)
    starts = {n: p.data.copy() for n, p in model.named_parameters() if n.endswith("start_steps")}
    accumulate_gradients(model, text(model), Objective(np.full(model.depth, 0.3)))
    for name in from_start:
        place, _ = flat.places[f"{name}.log_steps"]
        assert flat.gradients[place].any() and not flat.decay_mask[place].any()
        assert f"{name}.start_steps" not in flat.places
    assert len(starts) == len(from_start) + 1  # and the table's
    assert all(
        np.array_equal(p.data, starts[n]) for n, p in model.named_parameters() if n in starts
    )


@pytest.mark.parametrize("kind", ["none", "token_conditioned"])
@pytest.mark.parametrize("activations", ["int8", "none"])
def test_a_frozen_table_gives_the_same_losses_and_gradients_and_gets_none_itself(
    plain, kind, activations
):
    models = []
    for is_frozen in (False, True):
        model = build(kind)
        if is_frozen:
            freeze(model.trunk.embedding)
        models.append(prepare_qat(model, QuantizationSpec(activations=activations)))
    assert isinstance(models[1].trunk.embedding, FrozenEmbedding)
    assert same_bits(outputs(models[0], text(models[0])), outputs(models[1], text(models[1])))
    for model in models:
        accumulate_gradients(model, text(model), Objective(np.full(model.depth, 0.3)))
    learning, frozen = (dict(model.named_parameters()) for model in models)
    table = next(name for name in learning if name.endswith("embedding.weight"))
    assert learning[table].grad.any() and frozen[table].grad is None
    for name in learning.keys() - {table}:
        assert np.array_equal(learning[name].grad, frozen[name].grad), name
    rows, x = np.array([1, 4, 7]), np.random.default_rng(0).standard_normal((5, 32))
    selected = [
        model.trunk.embedding.matmul_rows(Tensor(x.astype(np.float32)), rows) for model in models
    ]
    assert np.array_equal(selected[0].data, selected[1].data) and selected[0].shape == (5, 3)
