"""Block grids write the bytes of ggml, which `tests/vectors/make_ggml.py` stored."""

import hashlib
import re
from pathlib import Path

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant import packing
from minimtp.quant.grids import BLOCK_GRIDS, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q6_K, Q8_0, grid_named
from tests.vectors.ggml_cases import FORMATS, importance, large_cases, small_cases

each_block_grid = pytest.mark.parametrize("grid", BLOCK_GRIDS.values(), ids=str)
each_way = pytest.mark.parametrize("how", ["plain", "importance"])

WEIGHTS = {"plain": None, "importance": importance()}


@pytest.fixture(scope="module")
def stored():
    return np.load(Path(__file__).parents[2] / "vectors" / "ggml.npz")


def encoded(grid, x, weights):
    return grid.pack(*grid.encode(x, importance=weights))


def test_the_stored_weights_equal_the_weights_that_the_cases_generate(stored):
    assert FORMATS == {name: grid.block_bytes for name, grid in BLOCK_GRIDS.items()}
    for case, x in small_cases().items():
        assert x.dtype == np.float32 and x.tobytes() == stored[f"weights/{case}"].tobytes(), case


@each_way
@pytest.mark.parametrize("case", small_cases())
@each_block_grid
def test_packed_bytes_equal_the_bytes_of_ggml(grid, case, how, stored):
    expected = stored[f"{grid.name}/{how}/{case}"]
    found = encoded(grid, stored[f"weights/{case}"], WEIGHTS[how])
    # In this case 1 / d overflows, and ggml casts NaN to an integer.
    if grid in (Q4_0, Q5_0) and (case, how) == ("subnormal", "plain"):
        assert np.array_equal(packing.dequantize(grid, found), packing.dequantize(grid, expected))
    else:
        assert np.array_equal(found, expected)


@pytest.mark.slow
@each_way
@pytest.mark.parametrize("case", large_cases())
@each_block_grid
def test_packed_bytes_of_a_million_weights_equal_the_bytes_of_ggml(grid, case, how, stored):
    digest = hashlib.sha256(encoded(grid, large_cases()[case], WEIGHTS[how])).digest()
    assert digest == stored[f"{grid.name}/{how}/sha256 of large {case}"].tobytes()


def weighted_error(grid, x, weights, chosen_by):
    return float(
        (np.square(grid.decode(*grid.encode(x, importance=chosen_by)) - x) * weights).sum(
            dtype=np.float64
        )
    )


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q6_k"])
def test_weighting_errors_by_importance_lowers_the_weighted_error_on_normal_weights(name):
    """This is typical but not guaranteed: the search is greedy, and scales are rounded after it."""
    x, weights = large_cases()["bell"][:64], importance()
    assert weighted_error(grid_named(name), x, weights, weights) < 0.95 * weighted_error(
        grid_named(name), x, weights, None
    )


def test_q8_0_ignores_importance_as_ggml_does():
    x = large_cases()["bell"][:4]
    assert np.array_equal(encoded(Q8_0, x, importance()), encoded(Q8_0, x, None))


@pytest.mark.parametrize(
    "bad", [np.ones(511), -np.ones(512), np.full(512, np.nan), np.ones((1, 512))]
)
def test_an_invalid_importance_is_rejected_with_the_name_of_the_matrix(bad):
    with pytest.raises(
        UserError,
        match="the importance of head 3 must be 512 finite numbers of at least 0, one per column",
    ):
        Q4_K.encode(np.zeros((2, 512), np.float32), "head 3", bad)


@pytest.mark.parametrize("name", ["int4-restricted-g32", "nf4-g64", "ternary-tensor"])
def test_grids_that_cannot_weight_errors_reject_an_importance(name):
    with pytest.raises(UserError, match=f"{name} does not support importance") as error:
        grid_named(name).encode(np.zeros((2, 64), np.float32), importance=np.ones(64))
    advised = set(re.findall(r"q\d_\w", str(error.value).partition(": use")[2]))
    assert advised == set(BLOCK_GRIDS)
    for grid in BLOCK_GRIDS.values():
        grid.encode(np.zeros((2, 256), np.float32), importance=np.ones(256))


def test_if_the_stored_scale_is_zero_all_codes_decode_to_zero():
    x = np.zeros((1, 256), np.float32)
    x[0, :16], x[0, 16:32] = np.linspace(-1, 1, 16), np.linspace(-1e-4, 1e-4, 16)
    codes, scales = Q6_K.encode(x)
    assert scales.scales[0, 0, 1] == 0 and len(set(codes[0, 16:32].tolist())) > 1
    assert not Q6_K.decode(codes, scales)[0, 16:].any()


# ------------------------------------------------ counter-examples to properties that are not true


def test_counter_example_zero_need_not_be_a_level_of_q4_1_or_q4_k():
    x = np.linspace(-1, 1.2, 256, dtype=np.float32)[None]
    x[0, ::7] = 0
    assert Q4_1.fake_quantize(x)[0, ::7].any() and Q4_K.fake_quantize(x)[0, ::7].any()


@pytest.mark.parametrize("case", ["constant", "sparse"])
@pytest.mark.parametrize("grid", [Q4_K, Q6_K], ids=str)
def test_counter_example_searched_grids_are_not_idempotent(grid, case):
    """They are on normal weights. If groups have very different magnitudes, the rounded scales of
    scales change.
    """
    once = grid.fake_quantize(small_cases()[case])
    assert not np.array_equal(grid.fake_quantize(once), once)


@pytest.mark.parametrize("grid", [Q4_1, Q5_1, Q4_K], ids=str)
def test_counter_example_grids_from_minimum_to_maximum_are_not_symmetric(grid):
    x = large_cases()["bell"][:8]
    assert not np.array_equal(grid.fake_quantize(-x), -grid.fake_quantize(x))


@pytest.mark.parametrize("grid", [Q4_K, Q6_K], ids=str)
def test_counter_example_order_is_not_kept_across_the_groups_of_a_super_block(grid):
    x = large_cases()["bell"][:1]
    rounded = grid.fake_quantize(x)
    assert (np.diff(rounded[0, np.argsort(x[0], kind="stable")]) < 0).any()
    shuffled = np.random.default_rng(0).permutation(512)
    assert not np.array_equal(grid.fake_quantize(x[:, shuffled]), rounded[:, shuffled])


def test_counter_example_the_search_of_q6_k_overflows_for_enormous_weights():
    constant = np.full((1, 256), 8897, np.float32)
    factor = np.float32(2.0**6)  # 2**19.1 in all
    scaled, as_one = Q6_K.fake_quantize(factor * constant), factor * Q6_K.fake_quantize(constant)
    assert not np.array_equal(scaled, as_one)
    smaller = np.float32(2.0**4)  # 2**17.1
    assert np.array_equal(Q6_K.fake_quantize(smaller * constant), smaller * as_one / factor)


@pytest.mark.parametrize("grid", BLOCK_GRIDS.values(), ids=str)
def test_counter_example_one_huge_weight_rounds_its_neighbours_to_one_value(grid):
    x = large_cases()["bell"][:1, : grid.group_size].copy()
    x[0, 3] = grid.max_magnitude
    values = grid.fake_quantize(x)
    group = np.delete(values[0, : grid.columns_per_step], 3)
    assert len(np.unique(group)) == 1


@pytest.mark.parametrize(
    ("grid", "bits"),
    [*zip(BLOCK_GRIDS.values(), (4.5, 5.0, 5.5, 6.0, 8.5, 4.5, 6.5625), strict=True)],
    ids=str,
)
def test_the_published_bits_per_weight_include_every_scale(grid, bits):
    assert grid.bits_per_weight == bits
    assert packing.quantize(grid, np.ones((3, 512), np.float32)).nbytes * 8 == 3 * 512 * bits
