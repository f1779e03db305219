"""Rounding after training: what each method promises whatever the numbers are, and what it never does."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError
from minimtp.model.config import ModelConfig
from minimtp.model.heads import HEADS, MultiTokenModel
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import Transformer
from minimtp.quant import packing
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.grids.scale_search import group_errors, search_scales
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq import awq
from minimtp.quant.ptq.calibration import CalibratedLinear, Statistics, calibrated, collect
from minimtp.quant.ptq.gptq import _inverse_factor, gptq, output_error
from minimtp.quant.ptq.hqq import hqq, power_error, shrink
from minimtp.quant.ptq.methods import METHODS, METHODS_WITH_TEXT, quantize_after_training
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.strategies import weight_matrices

SHAPE = ModelConfig(
    vocabulary_size=11,
    context_length=16,
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
)
DEPTH = 2
NAMES = (
    "q4_0",
    "q8_0",
    "q4_1",
    "int3-ggml-signed-g32",
    "int4-affine-g32",
    "int2-restricted-channel",
    "nf4-g32",
)
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
    return (spread * np.random.default_rng(seed).standard_normal((rows, columns))).astype(
        np.float32
    )


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
        parameter.data = (
            rng.uniform(0.5, 1.5, parameter.shape)
            if norm
            else 0.2 * rng.standard_normal(parameter.shape)
        )
    map_parameters(model, lambda array: array.astype(dtype))
    return model


def text(model, count=2, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SHAPE.vocabulary_size, (3, 9 + 1 + model.depth)) for _ in range(count)]


def says(model, tokens):
    with no_grad():
        return model.hidden(tokens[:, : tokens.shape[1] - 1 - model.depth]).data, evaluate_losses(
            model, tokens
        )[0]


# --------------------------------------------------------------------------------------------------------------------- GPTQ


@each_grid
@given(x=weight_matrices(largest=100.0), factor=st.floats(1e-6, 1e6), largest_first=st.booleans())
@settings(max_examples=25)
def test_gptq_with_unrelated_inputs_of_equal_size_is_round_to_nearest_bit_for_bit(
    own, grid, x, factor, largest_first
):
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
        assert np.array_equal(codes, whole[0][row : row + 1]) and np.array_equal(
            scales, whole[1][row : row + 1]
        )


@pytest.mark.parametrize("exponent", [-40, -10, 12])
def test_gptq_does_not_depend_on_the_unit_of_the_inputs(own, exponent):
    """Powers of two, which are exact: only the proportions of the moments matter, however small they are."""
    x, second_moment = bell(8, 64), moment(64)
    assert same(
        own(gptq)(Q4_0, x, second_moment * 2.0**exponent), own(gptq)(Q4_0, x, second_moment)
    )


def test_an_input_that_never_fires_counts_as_one_that_fires_alone_with_size_one(own):
    x, second_moment = bell(8, 64), moment(64)
    second_moment[[3, 40]] = second_moment[:, [3, 40]] = 0
    alive = second_moment.copy()
    alive[[3, 40], [3, 40]] = 1
    assert same(own(gptq)(Q4_0, x, second_moment), own(gptq)(Q4_0, x, alive))
    assert np.array_equal(_inverse_factor(second_moment, "down"), _inverse_factor(alive, "down"))


def test_columns_whose_inputs_are_equally_large_are_taken_in_their_own_order():
    """Two sizes, taking turns: the columns of the larger from the left, then those of the smaller."""
    x, related = bell(8, 128), moment(128)
    sizes = np.sqrt(np.diag(related) / np.tile([1.0, 4.0], 64))
    second_moment = related / np.outer(sizes, sizes)
    np.fill_diagonal(second_moment, np.tile([1.0, 4.0], 64))
    grid = grid_named("int4-restricted-channel")  # a row has one scale, so columns may be shuffled
    order = [*range(1, 128, 2), *range(0, 128, 2)]
    codes, scales = grid.encode(x)
    shuffled = gptq(
        grid, x[:, order], second_moment[order][:, order], beforehand=(codes[:, order], scales)
    )
    found = gptq(grid, x, second_moment, largest_first=True)
    assert same((found[0][:, order], found[1]), shuffled)


def test_columns_are_taken_from_the_left_unless_the_largest_are_asked_for():
    x, second_moment = bell(8, 64), moment(64)
    assert same(gptq(Q4_0, x, second_moment), gptq(Q4_0, x, second_moment, largest_first=False))
    assert not same(gptq(Q4_0, x, second_moment), gptq(Q4_0, x, second_moment, largest_first=True))


@pytest.mark.parametrize("negative", [0.0, 0.003, 0.05, 0.5])
def test_the_moments_are_damped_by_a_hundredth_of_their_mean_times_the_least_power_of_ten_that_will_do(
    negative,
):
    """A moment that rounding has left with a negative eigenvalue needs more; `negative` is its size in mean diagonals."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    eigenvalues = np.array([-negative, 0.2, 0.5, 1.0, 2.0, 4.0])
    second_moment = rotation @ np.diag(eigenvalues / eigenvalues.mean()) @ rotation.T
    second_moment = (second_moment + second_moment.T) / 2
    factor = _inverse_factor(second_moment, "down")
    assert np.array_equal(factor, np.triu(factor))
    damping = np.linalg.inv(factor.T @ factor) - second_moment
    added = np.diag(damping).mean() / np.diag(second_moment).mean()
    assert np.allclose(damping, added * np.eye(6), atol=1e-9)
    needed = negative / eigenvalues.mean()
    expected = next(0.01 * 10**k for k in range(6) if 0.01 * 10**k > needed)
    assert added == pytest.approx(expected, rel=1e-6)


def test_the_error_at_the_outputs_is_summed_in_double_precision():
    difference, second_moment = bell(64, 64, spread=1000.0), moment(64)
    exact = sum(float(row @ second_moment @ row) for row in difference.astype(np.float64))
    assert output_error(difference, second_moment) == pytest.approx(exact, rel=1e-12)


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
    assert np.array_equal(
        gptq(grid, other, second_moment, beforehand=fixed)[0][:, live], codes[:, live]
    )


@pytest.mark.parametrize("rank", [1, 5])
def test_gptq_with_fewer_inputs_than_columns_is_finite_and_better_than_rounding(own, rank):
    x, second_moment = bell(16, 96), moment(96, rows=rank)
    codes, scales = own(gptq)(Q4_0, x, second_moment)
    assert np.isfinite(scales).all() and codes.min() >= -8 and codes.max() <= 7
    found, nearest = (
        output_error(Q4_0.decode(*pair) - x, second_moment)
        for pair in ((codes, scales), Q4_0.encode(x))
    )
    assert found < 0.2 * nearest


def test_gptq_leaves_less_of_an_error_at_the_outputs_than_searching_scales_and_that_less_than_rounding():
    """No theorem, but what the methods are for."""
    x, second_moment = bell(64, 128), moment(128)
    searched = search_scales(Q4_0, x, np.diag(second_moment))
    found = gptq(Q4_0, x, second_moment, beforehand=searched, largest_first=True)
    errors = [
        output_error(Q4_0.decode(*pair) - x, second_moment)
        for pair in (found, searched, Q4_0.encode(x))
    ]
    assert errors[0] < 0.7 * errors[1] and errors[1] < 0.7 * errors[2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_or_weights_that_are_not_finite_are_an_error_that_names_the_matrix(value):
    x, second_moment = bell(4, 64), moment(64)
    broken = second_moment.copy()
    broken[3, 3] = value
    with pytest.raises(
        UserError, match="the inputs of down are not finite on the calibration text"
    ):
        gptq(Q4_0, x, broken, "down")
    x[1, 2] = value
    for names, called in (([], "the array"), (["down"], "down")):
        for method in (lambda *name: gptq(Q4_0, x, second_moment, *name), lambda *name: hqq(Q4_0, x, *name),
                       lambda *name: search_scales(Q4_0, x, None, *name)):  # fmt: skip
            with pytest.raises(UserError, match=f"^{called} holds values that are not finite"):
                method(*names)


# ---------------------------------------------------------------------------------------------------------- searched scales


@each_grid
@given(x=weight_matrices(largest=100.0), seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_searched_scales_never_cost_more_than_the_grids_own(grid, x, seed):
    importance = np.random.default_rng(seed).exponential(size=x.shape[1])
    found, own = search_scales(grid, x, importance), grid.encode(x)
    assert (
        group_errors(grid, x, *found, importance) <= group_errors(grid, x, *own, importance)
    ).all()


@pytest.mark.parametrize("name", ["q4_k", "q6_k"])
def test_scales_of_super_blocks_are_searched_by_the_format_itself(name):
    grid, x = grid_named(name), bell(2, 512)
    importance = np.random.default_rng(2).exponential(size=512)
    assert same(search_scales(grid, x, importance), grid.encode(x, importance=importance))
    assert same(search_scales(grid, x), grid.encode(x))
    assert not same(search_scales(grid, x), search_scales(grid, x, importance))


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "int3-affine-g32", "int2-restricted-channel"])
def test_searched_scales_are_the_best_of_the_factors_group_by_group(name):
    """Each group by itself, errors summed one after the other in double precision; ties go to what was tried first."""
    grid, x = grid_named(name), bell(6, 64, seed=8, spread=1.0)
    importance = np.random.default_rng(5).exponential(size=64)
    codes, scales = search_scales(grid, x, importance)
    size = grid.group_size or 64
    for row in range(6):
        for first in range(0, 64, size):
            group, weights = (
                x[row : row + 1, first : first + size],
                importance[first : first + size],
            )
            tried = [grid.encode(group)]
            for step in range(41):
                new = grid.encode(group * np.float32(0.4 + 0.02 * step))[1]
                tried.append((grid.nearest(group, new), new))
            errors = [
                ((grid.decode(*pair).astype(np.float64) - group) ** 2 * weights).sum()
                for pair in tried
            ]
            best = tried[int(np.argmin(errors))]
            assert np.array_equal(codes[row : row + 1, first : first + size], best[0])
            for whole, part in zip(arrays_of(scales), arrays_of(best[1]), strict=True):
                assert whole[row, first // size] == part


def test_only_the_proportions_of_importance_matter_and_none_means_equal():
    x, importance = bell(8, 64), np.random.default_rng(1).exponential(size=64)
    assert same(search_scales(Q4_0, x, importance), search_scales(Q4_0, x, 1024 * importance))
    assert same(search_scales(Q4_0, x), search_scales(Q4_0, x, np.full(64, 0.5)))


def test_an_important_column_is_rounded_more_exactly():
    x, importance = bell(32, 64), np.ones(64)
    importance[10] = 1000.0
    errors = [
        np.abs(Q4_0.decode(*search_scales(Q4_0, x, weights))[:, 10] - x[:, 10]).mean()
        for weights in (importance, None)
    ]
    assert errors[0] < 0.5 * errors[1]


# ---------------------------------------------------------------------------------------------------------------------- HQQ

HQQ_GRIDS = [grid for grid in [*GRIDS, *RAGGED] if "affine" not in grid.name]


@pytest.mark.parametrize("grid", HQQ_GRIDS, ids=str)
@given(x=weight_matrices(largest=100.0))
@settings(max_examples=20)
def test_hqq_never_ends_with_a_larger_error_than_it_began_with(grid, x):
    codes, scales = hqq(grid, x)
    assert codes.min() >= grid.min_code and codes.max() <= grid.max_code
    assert (power_error(grid, x, codes, scales) <= power_error(grid, x, *grid.encode(x))).all()


@given(exponent=st.integers(-6, 6), seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_hqq_does_not_depend_on_the_unit_of_the_weights(exponent, seed):
    """Powers of two, which are exact; within the normal range of float16."""
    x, unit = bell(4, 64, seed, spread=1.0), 2.0**exponent
    codes, scales = hqq(Q4_0, x)
    assert same(hqq(Q4_0, x * np.float32(unit)), (codes, scales * np.float32(unit)))


@given(
    values=st.lists(st.floats(-10, 10), min_size=1, max_size=8),
    step=st.floats(0, 4, width=32),
    beta=st.floats(0.5, 100),
)
def test_shrinking_gives_up_on_part_of_a_residual_and_never_on_more(values, step, beta):
    residual = np.array(values)
    kept = shrink(residual, np.array(step), beta)
    rounding = 1 + 4 * np.finfo(float).eps  # of measuring in steps and back
    assert (np.abs(kept) <= rounding * np.abs(residual)).all() and (kept * residual >= 0).all()
    assert np.array_equal(shrink(-residual, np.array(-step), beta), -kept)


def shrunk(residual, step, beta):
    """The generalized soft threshold of one residual, in its step."""
    unit = abs(step) or 1.0
    size = abs(residual) / unit
    if size == 0:
        return 0.0
    return math.copysign(max(0.0, size - size ** (0.7 - 1) / beta) * unit, residual)


@given(
    residual=st.floats(-20, 20),
    step=st.floats(-4, 4).filter(lambda s: s == 0 or abs(s) > 1e-3),
    beta=st.floats(0.5, 100),
)
def test_shrinking_is_the_generalized_soft_threshold(residual, step, beta):
    found = shrink(np.array([residual]), np.array([step]), beta)
    np.testing.assert_allclose(found, [shrunk(residual, step, beta)], rtol=1e-9, atol=1e-12)


def hqq_of_a_group(grid, group):
    """HQQ of one group (n,) by the docstring's equations, a number at a time. grid: q4_0, or q4_1, which has an offset."""
    x = group[None]
    codes, scales = grid.encode(x)
    exact = [float(w) for w in group]

    def values(codes, scales):
        return [float(v) for v in grid.decode(codes, scales)[0]]

    def cost(codes, scales):
        return sum(abs(w - q) ** 0.7 for w, q in zip(exact, values(codes, scales), strict=True))

    best, tried, rounded, beta, costs = (codes, scales), scales, codes, 10.0, [cost(codes, scales)]
    for _ in range(20):
        affine = isinstance(tried, tuple)
        step = float((tried.step if affine else tried).item())
        kept = [
            w - shrunk(w - q, step, beta)
            for w, q in zip(exact, values(rounded, tried), strict=True)
        ]
        numbers = [int(code) for code in rounded[0]]
        if affine:
            mean = sum(k - code * step for k, code in zip(kept, numbers, strict=True)) / len(kept)
            tried = tried._replace(minimum=np.array([[mean]], np.float16).astype(np.float32))
        else:
            squares = sum(code * code for code in numbers)
            fitted = sum(k * code for k, code in zip(kept, numbers, strict=True)) / (squares or 1)
            tried = np.array([[fitted]], np.float16).astype(np.float32) if squares else tried
        rounded = grid.nearest(x, tried)
        if cost(rounded, tried) < min(costs):
            best = rounded, tried
        costs.append(cost(rounded, tried))
        beta *= 1.05
    return best, costs


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "int2-restricted-g32", "int3-ggml-signed-g32"])
def test_hqq_is_what_its_equations_say_group_by_group(name):
    grid, x = grid_named(name), bell(8, 32, seed=5, spread=1.0)
    x[6], x[7, :3] = 0, 20.0
    found, improved = hqq(grid, x), 0
    for row in range(8):
        (codes, scales), costs = hqq_of_a_group(grid, x[row])
        own = [part[row : row + 1] for part in [found[0], *arrays_of(found[1])]]
        expected = [codes, *arrays_of(scales)]
        assert all(np.array_equal(a, b) for a, b in zip(own, expected, strict=True)), row
        improved += min(costs) < costs[0]
    assert improved >= 4


def test_hqq_does_not_round_the_largest_offset_to_infinity():
    grid = grid_named("q4_1")
    x = np.full((1, 32), -65504.0, np.float32)
    x[0, ::2] = 65504.0
    with np.errstate(over="ignore"):  # an offset that is tried and not taken
        assert all(np.isfinite(part).all() for part in hqq(grid, x)[1])


def test_hqq_says_which_grids_it_cannot_fit():
    with pytest.raises(
        UserError, match="int4-affine-g32 has neither by itself: use method rtn, gptq or awq"
    ):
        hqq(grid_named("int4-affine-g32"), bell(2, 64))


# ---------------------------------------------------------------------------------------------------------------------- AWQ


@each_kind
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_scaled_columns_change_nothing_as_long_as_nothing_is_rounded(kind, num_kv_heads):
    """In float64, where 1e-10 is what hundreds of roundings add up to; every kind of head, every sharing of value heads."""
    model = build(kind, num_kv_heads=num_kv_heads)
    batches = text(model)
    copy = prepare_qat(
        model, QuantizationSpec(embedding="q8_0", activations="none"), linear=CalibratedLinear
    )
    before = says(copy, batches[0])
    weights = {name: product.weight.data.copy() for name, product in calibrated(copy).items()}
    collect(copy, calibrated(copy).values(), batches)
    awq.scale_columns(copy)
    for found, expected in zip(says(copy, batches[0]), before, strict=True):
        assert np.allclose(found, expected, rtol=1e-10, atol=1e-10)
    changed = [
        name
        for name, product in calibrated(copy).items()
        if not np.array_equal(weights[name], product.weight.data)
    ]
    assert len(changed) > 0.5 * len(weights)


def test_every_product_between_norms_can_be_scaled():
    for kind in ("none", *HEADS):
        model = prepare_qat(build(kind), QuantizationSpec(), linear=CalibratedLinear)
        scaled = {id(fold.linear) for fold in awq.folds(model)}
        assert scaled == {id(product) for product in calibrated(model).values()}, kind


def test_column_scales_are_centred_on_one_and_protect_large_inputs():
    x, statistics = bell(32, 64), Statistics()
    inputs = np.random.default_rng(0).standard_normal((256, 64))
    inputs[:, 5] *= 30
    statistics.add(inputs)
    scales = awq.column_scales(Q4_0, x, statistics, lambda magnitudes: magnitudes)
    assert (
        scales.max() * scales.min() == pytest.approx(1.0, rel=1e-9)
        and scales.argmax() == 5
        and scales[5] > 2
    )


def test_column_scales_are_those_of_the_twenty_exponents_with_the_least_error_at_the_outputs():
    x, statistics = bell(16, 64), Statistics()
    inputs = np.random.default_rng(3).standard_normal((256, 64)) * np.exp(
        np.random.default_rng(4).standard_normal(64)
    )
    inputs[:, 7] *= 1e-9  # hardly ever fires: not blown up by more than 1e-4 of the largest
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


def test_value_heads_that_several_query_heads_share_get_their_inputs_mean_and_others_their_own():
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


def test_an_input_that_is_always_zero_does_not_break_the_scales():
    statistics = Statistics()
    statistics.add(np.zeros((4, 64)))
    assert np.isfinite(
        awq.column_scales(Q4_0, bell(4, 64), statistics, lambda magnitudes: magnitudes)
    ).all()


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


def test_statistics_are_means_over_the_rows_in_double_precision():
    x = bell(16, 8, spread=1000.0)
    statistics, precise = Statistics(), x.astype(np.float64)
    statistics.add(x)
    np.testing.assert_allclose(
        statistics.second_moment, precise.T @ precise / 16, rtol=1e-13, atol=1e-8
    )
    np.testing.assert_allclose(statistics.magnitude, np.abs(precise).mean(axis=0), rtol=1e-13)


def test_until_it_is_told_what_it_is_rounded_to_a_calibrated_product_is_exact_and_would_be_stored_by_the_grids_rule():
    model = prepare_qat(build(dtype=np.float32), QuantizationSpec(), linear=CalibratedLinear)
    product = calibrated(model)["blocks.0.attention.qkv"]
    assert np.array_equal(product.rounded().data, product.weight.data)
    assert same(product.encode(), Q4_0.encode(product.weight.data))
    coarse = Q4_0.encode(0.5 * product.weight.data)
    product.settle(*coarse)
    assert product.rounded().data.dtype == np.float32 and np.array_equal(
        product.rounded().data, Q4_0.decode(*coarse)
    )
    assert same(product.encode(), coarse)


def test_statistics_are_of_what_the_product_sees_and_of_layers_already_rounded():
    model = prepare_qat(build(dtype=np.float32), QuantizationSpec(), linear=CalibratedLinear)
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
    assert len(done) == len(
        calibrated(prepare_qat(build(kind), QuantizationSpec(), linear=CalibratedLinear))
    )
    nearest = says(convert(prepare_qat(model, QuantizationSpec())), batches[0])
    equal = all(
        np.array_equal(a, b) for a, b in zip(says(packed, batches[0]), nearest, strict=True)
    )
    assert equal == (method == "rtn")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_its_parts_product_by_product(plain, method):
    """The first product, whose inputs no other product's rounding has touched, by hand; with AWQ's scales folded in front."""
    model = build("sequential", np.float32)
    batches, done = text(model), []
    packed = quantize_after_training(model, QuantizationSpec(), method, batches, done.append)
    copy = prepare_qat(build("sequential", np.float32), QuantizationSpec(), linear=CalibratedLinear)
    products = calibrated(copy)
    assert done == list(products)
    collect(copy, products.values(), batches)
    if method == "awq":
        awq.scale_columns(copy)
        collect(copy, products.values(), batches)
    deployed = {
        name: packing.unpack(module.grid, module.packed)
        for name, module in packed.named_modules()
        if name in products
    }
    for name, product in products.items():
        weight, statistics = product.weight.data, product.statistics
        searched = search_scales(Q4_0, weight, statistics.importance)
        expected = {
            "rtn": lambda w=weight: Q4_0.encode(w), "hqq": lambda w=weight: hqq(Q4_0, w),
            "importance": lambda s=searched: s, "awq": lambda s=searched: s,
            "gptq": lambda w=weight, s=statistics, b=searched: gptq(Q4_0, w, s.second_moment, beforehand=b, largest_first=True),
        }[method]()  # fmt: skip
        assert same(deployed[name], expected), name
        if method == "gptq":
            break  # the others see what it has rounded


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_finite_are_an_error_that_names_their_product(method):
    model = build(dtype=np.float32)
    batches = text(model)
    model.blocks[1].feed_forward.down.weight.data[3, 5] = np.inf
    said = r"blocks\.1\.feed_forward\.down\.weight holds values that are not finite"
    if method in METHODS_WITH_TEXT:
        said = "not finite"  # the model's own outputs are not, and the text meets them first
    with pytest.raises(UserError, match=said):
        quantize_after_training(model, QuantizationSpec(), method, batches)


def test_the_same_text_gives_the_same_bytes():
    model = build("sequential", np.float32)
    batches = text(model)
    one, two = (
        quantize_after_training(model, QuantizationSpec(), "gptq", batches) for _ in range(2)
    )
    pairs = zip(stored_arrays(one).items(), stored_arrays(two).items(), strict=True)
    assert all(a == b and x.tobytes() == y.tobytes() for (a, x), (b, y) in pairs)


def test_a_method_that_does_not_exist_or_lacks_its_text_is_an_error_that_says_what_to_do():
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
