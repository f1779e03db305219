"""Rounding after training: what each method promises whatever the numbers are, and what it never does."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError
from minimtp.model.heads import HEADS, MultiTokenModel
from minimtp.model.objective import evaluate_losses
from minimtp.model.transformer import Shape, Transformer
from minimtp.quant import awq
from minimtp.quant.calibration import CalibratedLinear, Statistics, calibrated, collect
from minimtp.quant.gptq import gptq, output_error
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.hqq import hqq, power_error, shrink
from minimtp.quant.importance import group_errors, search_scales
from minimtp.quant.packed import stored_arrays
from minimtp.quant.ptq import METHODS, METHODS_WITH_TEXT, quantize_after_training
from minimtp.quant.qat import QuantizationSpec, convert, prepare
from tests.strategies import weight_matrices

SHAPE = Shape(vocabulary_size=11, context=16, layers=2, width=32, attention_heads=4, key_value_heads=2, feed_forward=64)
DEPTH = 2
NAMES = "q4_0", "q8_0", "q4_1", "int3-ggml-signed-g32", "int4-affine-g32", "int2-restricted-channel", "nf4-g32"
GRIDS = [grid_named(name) for name in NAMES]
RAGGED = [grid_named("int4-restricted-g24"), grid_named("int3-restricted-tensor")]

each_grid = pytest.mark.parametrize("grid", [*GRIDS, *RAGGED], ids=str)
each_kind = pytest.mark.parametrize("kind", ["none", *HEADS])


def arrays_of(scales):
    return list(scales) if isinstance(scales, tuple) else [scales]


def same(one, other):
    """Two results (codes, scales), bit for bit."""
    pairs = zip([one[0], *arrays_of(one[1])], [other[0], *arrays_of(other[1])], strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def bell(rows, columns, seed=0, spread=0.1):
    return (spread * np.random.default_rng(seed).standard_normal((rows, columns))).astype(np.float32)


def moment(columns, seed=0, rows=None):
    """E[x xᵀ] of correlated inputs of very different sizes."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((columns, columns)) * np.exp(rng.standard_normal(columns))
    x = rng.standard_normal((rows or 4 * columns, columns)) @ mixing
    return x.T @ x / len(x)


def build(kind="none", dtype=np.float64, **changes):
    rng = np.random.default_rng(0)
    shape = replace(SHAPE, **changes)
    trunk = Transformer(shape, rng)
    model = trunk if kind == "none" else MultiTokenModel(trunk, HEADS[kind](DEPTH, shape, rng))
    for name, parameter in model.named_parameters():
        norm = "norm" in name
        parameter.data = rng.uniform(0.5, 1.5, parameter.shape) if norm else 0.2 * rng.standard_normal(parameter.shape)
    map_parameters(model, lambda array: array.astype(dtype))
    return model


def text(model, count=2, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SHAPE.vocabulary_size, (3, 9 + 1 + model.depth)) for _ in range(count)]


def says(model, tokens):
    with no_grad():
        return model.hidden(tokens[:, : tokens.shape[1] - 1 - model.depth]).data, evaluate_losses(model, tokens)[0]


# --------------------------------------------------------------------------------------------------------------------- GPTQ


@each_grid
@given(x=weight_matrices(largest=100.0), factor=st.floats(1e-6, 1e6), largest_first=st.booleans())
@settings(max_examples=25)
def test_gptq_with_unrelated_inputs_of_equal_size_is_round_to_nearest_bit_for_bit(own, grid, x, factor, largest_first):
    found = own(gptq)(grid, x, factor * np.eye(x.shape[1]), largest_first=largest_first)
    assert same(found, grid.encode(x))


@each_grid
def test_gptq_without_any_inputs_is_round_to_nearest(own, grid):
    x = bell(5, 64)
    assert same(own(gptq)(grid, x, np.zeros((64, 64))), grid.encode(x))


@each_grid
def test_gptq_does_not_depend_on_how_many_columns_it_updates_at_once(own, grid):
    x, second_moment = bell(16, 192), moment(192)
    results = [own(gptq)(grid, x, second_moment, groups_at_once=count) for count in (1, 2, 3, 100)]
    assert all(same(results[0], result) for result in results[1:])


@each_grid
@pytest.mark.parametrize("largest_first", [False, True])
def test_gptq_is_what_updating_the_inverse_column_by_column_gives(own, grid, largest_first):
    """The same algorithm without Cholesky factors: eliminate each column from the inverse once it is rounded."""
    x, second_moment = bell(8, 64, seed=3), moment(64, seed=4)
    now = x.astype(np.float64)
    inverse = np.linalg.inv(second_moment + 0.01 * np.mean(np.diag(second_moment)) * np.eye(64))
    size = grid.group_size or 64
    codes, scales = grid.encode(x)
    chosen, moved = codes.copy(), np.zeros(x.shape, bool)
    for j in np.argsort(-np.diag(second_moment), kind="stable") if largest_first else range(64):
        if j % size == 0 and not largest_first:
            group = slice(j, min(j + size, 64))
            chosen[:, group], new = grid.encode(now[:, group])
            for whole, part in zip(arrays_of(scales), arrays_of(new), strict=True):
                whole[:, j // size : j // size + 1] = part
            moved[:, group] = False
        nearest = grid.nearest(now[:, j : j + 1], scales, j)[:, 0]
        codes[:, j] = np.where(moved[:, j], nearest, chosen[:, j])
        error = (now[:, j] - grid.decode(codes[:, j : j + 1], scales, j)[:, 0]) / inverse[j, j]
        left = np.setdiff1d(np.arange(64), np.flatnonzero(inverse.any(axis=0) == 0))
        left = left[left != j]
        now[:, left] -= error[:, None] * inverse[j, left]
        moved[:, left] |= (error[:, None] * inverse[j, left]) != 0
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j], inverse[:, j] = 0, 0
    assert same(own(gptq)(grid, x, second_moment, largest_first=largest_first), (codes, scales))


def test_gptq_rounds_the_rows_of_a_matrix_independently(own):
    x, second_moment = bell(6, 96), moment(96)
    whole = own(gptq)(Q4_0, x, second_moment)
    for row in range(6):
        codes, scales = own(gptq)(Q4_0, x[row : row + 1], second_moment)
        assert np.array_equal(codes, whole[0][row : row + 1]) and np.array_equal(scales, whole[1][row : row + 1])


@each_grid
def test_an_input_that_never_fires_is_rounded_by_itself_and_moves_nothing(grid):
    x, second_moment = bell(8, 64), moment(64)
    dead = [0, 17, 63]
    second_moment[dead] = second_moment[:, dead] = 0
    codes, scales = gptq(grid, x, second_moment, beforehand=search_scales(grid, x))
    alone = search_scales(grid, x)
    assert np.array_equal(codes[:, dead], alone[0][:, dead])
    other = x.copy()
    other[:, dead] *= 0.5  # within the old scales
    fixed = (grid.nearest(other, scales), scales)
    live = [j for j in range(64) if j not in dead]
    assert np.array_equal(gptq(grid, other, second_moment, beforehand=fixed)[0][:, live], codes[:, live])


@pytest.mark.parametrize("rank", [1, 5])
def test_gptq_with_fewer_inputs_than_columns_is_finite_and_better_than_rounding(own, rank):
    x, second_moment = bell(16, 96), moment(96, rows=rank)
    codes, scales = own(gptq)(Q4_0, x, second_moment)
    assert np.isfinite(scales).all() and codes.min() >= -8 and codes.max() <= 7
    found, nearest = (output_error(Q4_0.decode(*pair) - x, second_moment) for pair in ((codes, scales), Q4_0.encode(x)))
    assert found < 0.2 * nearest


def test_gptq_leaves_less_of_an_error_at_the_outputs_than_searching_scales_and_that_less_than_rounding():
    """No theorem, but what the methods are for."""
    x, second_moment = bell(64, 128), moment(128)
    searched = search_scales(Q4_0, x, np.diag(second_moment))
    found = gptq(Q4_0, x, second_moment, beforehand=searched, largest_first=True)
    errors = [output_error(Q4_0.decode(*pair) - x, second_moment) for pair in (found, searched, Q4_0.encode(x))]
    assert errors[0] < 0.7 * errors[1] and errors[1] < 0.7 * errors[2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_or_weights_that_are_not_finite_are_an_error_that_names_the_matrix(value):
    x, second_moment = bell(4, 64), moment(64)
    broken = second_moment.copy()
    broken[3, 3] = value
    with pytest.raises(UserError, match="the inputs of down are not finite on the calibration text"):
        gptq(Q4_0, x, broken, "down")
    x[1, 2] = value
    for method in (lambda: gptq(Q4_0, x, second_moment, "down"), lambda: hqq(Q4_0, x, "down"),
                   lambda: search_scales(Q4_0, x, None, "down")):  # fmt: skip
        with pytest.raises(UserError, match="down holds values that are not finite"):
            method()


# ---------------------------------------------------------------------------------------------------------- searched scales


@each_grid
@given(x=weight_matrices(largest=100.0), seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_searched_scales_never_cost_more_than_the_grids_own(grid, x, seed):
    importance = np.random.default_rng(seed).exponential(size=x.shape[1])
    found, own = search_scales(grid, x, importance), grid.encode(x)
    assert (group_errors(grid, x, *found, importance) <= group_errors(grid, x, *own, importance)).all()


def test_only_the_proportions_of_importance_matter_and_none_means_equal():
    x, importance = bell(8, 64), np.random.default_rng(1).exponential(size=64)
    assert same(search_scales(Q4_0, x, importance), search_scales(Q4_0, x, 1024 * importance))
    assert same(search_scales(Q4_0, x), search_scales(Q4_0, x, np.full(64, 0.5)))


def test_an_important_column_is_rounded_more_exactly():
    x, importance = bell(32, 64), np.ones(64)
    importance[10] = 1000.0
    errors = [np.abs(Q4_0.decode(*search_scales(Q4_0, x, weights))[:, 10] - x[:, 10]).mean() for weights in (importance, None)]
    assert errors[0] < 0.5 * errors[1]


# ---------------------------------------------------------------------------------------------------------------------- HQQ

HQQ_GRIDS = [grid for grid in [*GRIDS, *RAGGED] if "affine" not in grid.name]


@pytest.mark.parametrize("grid", HQQ_GRIDS, ids=str)
@given(x=weight_matrices(largest=100.0))
@settings(max_examples=20)
def test_hqq_never_ends_with_a_larger_error_than_it_began_with(grid, x):
    codes, scales = hqq(grid, x)
    assert codes.min() >= grid.smallest_code and codes.max() <= grid.largest_code
    assert (power_error(grid, x, codes, scales) <= power_error(grid, x, *grid.encode(x))).all()


@given(exponent=st.integers(-6, 6), seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_hqq_does_not_depend_on_the_unit_of_the_weights(exponent, seed):
    """Powers of two, which are exact; within the normal range of float16."""
    x, unit = bell(4, 64, seed, spread=1.0), 2.0**exponent
    codes, scales = hqq(Q4_0, x)
    assert same(hqq(Q4_0, x * np.float32(unit)), (codes, scales * np.float32(unit)))


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=8), step=st.floats(0, 4, width=32), beta=st.floats(0.5, 100))
def test_shrinking_gives_up_on_part_of_a_residual_and_never_on_more(values, step, beta):
    residual = np.array(values)
    kept = shrink(residual, np.array(step), beta)
    rounding = 1 + 4 * np.finfo(float).eps  # of measuring in steps and back
    assert (np.abs(kept) <= rounding * np.abs(residual)).all() and (kept * residual >= 0).all()
    assert np.array_equal(shrink(-residual, np.array(-step), beta), -kept)


def test_hqq_says_which_grids_it_cannot_fit():
    with pytest.raises(UserError, match="int4-affine-g32 has neither by itself: use method rtn, gptq or awq"):
        hqq(grid_named("int4-affine-g32"), bell(2, 64))


# ---------------------------------------------------------------------------------------------------------------------- AWQ


@each_kind
@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_scaled_columns_change_nothing_as_long_as_nothing_is_rounded(kind, key_value_heads):
    """In float64, where 1e-10 is what hundreds of roundings add up to; every kind of head, every sharing of value heads."""
    model = build(kind, key_value_heads=key_value_heads)
    batches = text(model)
    copy = prepare(model, QuantizationSpec(embedding="q8_0", activations="none"), linear=CalibratedLinear)
    before = says(copy, batches[0])
    weights = {name: product.weight.data.copy() for name, product in calibrated(copy).items()}
    collect(copy, calibrated(copy).values(), batches)
    awq.scale_columns(copy)
    for found, expected in zip(says(copy, batches[0]), before, strict=True):
        assert np.allclose(found, expected, rtol=1e-10, atol=1e-10)
    changed = [name for name, product in calibrated(copy).items() if not np.array_equal(weights[name], product.weight.data)]
    assert len(changed) > 0.5 * len(weights)


def test_every_product_between_norms_can_be_scaled():
    for kind in ("none", *HEADS):
        model = prepare(build(kind), QuantizationSpec(), linear=CalibratedLinear)
        scaled = {id(fold.product) for fold in awq.folds(model)}
        assert scaled == {id(product) for product in calibrated(model).values()}, kind


def test_column_scales_are_centred_on_one_and_protect_large_inputs():
    x, statistics = bell(32, 64), Statistics()
    inputs = np.random.default_rng(0).standard_normal((256, 64))
    inputs[:, 5] *= 30
    statistics.add(inputs)
    scales = awq.column_scales(Q4_0, x, statistics, lambda magnitudes: magnitudes)
    assert scales.max() * scales.min() == pytest.approx(1.0, rel=1e-9) and scales.argmax() == 5 and scales[5] > 2


def test_an_input_that_is_always_zero_does_not_break_the_scales():
    statistics = Statistics()
    statistics.add(np.zeros((4, 64)))
    assert np.isfinite(awq.column_scales(Q4_0, bell(4, 64), statistics, lambda magnitudes: magnitudes)).all()


# ---------------------------------------------------------------------------------------------------------------- statistics


@given(cut=st.integers(1, 15))
@settings(max_examples=10)
def test_statistics_of_two_portions_are_those_of_the_whole(cut):
    x = bell(16, 8, spread=1.0)
    whole, parts = Statistics(), Statistics()
    whole.add(x)
    parts.add(x[:cut])
    parts.add(x[cut:])
    assert whole.rows == parts.rows == 16
    for name in ("second_moment", "importance", "magnitude"):
        assert np.allclose(getattr(whole, name), getattr(parts, name), rtol=1e-12, atol=1e-15)
    assert np.array_equal(np.diag(whole.second_moment), whole.importance)


def test_statistics_are_of_what_the_product_sees_and_of_layers_already_rounded():
    model = prepare(build(dtype=np.float32), QuantizationSpec(), linear=CalibratedLinear)
    batches, products = text(model), calibrated(model)
    first, second = products["blocks.0.attention.qkv"], products["blocks.0.feed_forward.gate_up"]
    collect(model, [first, second], batches)
    before = second.statistics.second_moment
    levels = np.unique(np.round(np.sqrt(first.statistics.importance), 12))
    assert first.statistics.rows == second.statistics.rows == 2 * 3 * 9 and len(levels) > 1
    first.settle(*first.grid.encode(0.5 * first.weight.data))
    collect(model, [second], batches)
    assert not np.allclose(before, second.statistics.second_moment)


# ----------------------------------------------------------------------------------------------------------- a whole model


@pytest.fixture
def plain():
    kernels.use("plain")
    yield
    kernels.use("auto")


@each_kind
@pytest.mark.parametrize("method", METHODS)
def test_every_method_packs_every_kind_of_model_and_leaves_the_given_one_alone(plain, kind, method):
    model = build(kind, np.float32)
    batches = text(model)
    before = says(model, batches[0])
    done = []
    packed = quantize_after_training(model, QuantizationSpec(), method, batches, done.append)
    assert all(np.array_equal(a, b) for a, b in zip(says(model, batches[0]), before, strict=True))
    assert all(np.isfinite(part).all() for part in says(packed, batches[0]))
    assert len(done) == len(calibrated(prepare(build(kind), QuantizationSpec(), linear=CalibratedLinear)))
    nearest = says(convert(prepare(model, QuantizationSpec())), batches[0])
    equal = all(np.array_equal(a, b) for a, b in zip(says(packed, batches[0]), nearest, strict=True))
    assert equal == (method == "rtn")


def test_the_same_text_gives_the_same_bytes():
    model = build("sequential", np.float32)
    batches = text(model)
    one, two = (quantize_after_training(model, QuantizationSpec(), "gptq", batches) for _ in range(2))
    pairs = zip(stored_arrays(one).items(), stored_arrays(two).items(), strict=True)
    assert all(a == b and x.tobytes() == y.tobytes() for (a, x), (b, y) in pairs)


def test_a_method_that_does_not_exist_or_lacks_its_text_is_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match="unknown method 'gpqt': use rtn, hqq, importance, awq, gptq"):
        quantize_after_training(build(), QuantizationSpec(), "gpqt")
    for method in METHODS_WITH_TEXT:
        with pytest.raises(UserError, match=f"method {method} needs calibration text: give some, or use method rtn or hqq"):
            quantize_after_training(build(), QuantizationSpec(), method)
