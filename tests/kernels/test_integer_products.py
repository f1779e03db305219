"""The exact sums of a product of Q4_0 weights and int8 activations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels.ggml.blocks import nibbles
from minimtp.kernels.ggml.integer_products import group_sums


def packed(codes):
    """Codes 0..15 (N, K) -> uint8 (N, K/32, 16)."""
    return nibbles(np.asarray(codes, np.uint8))


def check(found, expected, what):
    """Check shape, values and type of sums (T, N, K/32)."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, (
        f"{what}: expected the shape (T, N, K/32) = {expected.shape}, got {found.shape}"
    )
    wrong = np.argwhere(found != expected)
    assert not len(wrong), (
        f"{what}: at {tuple(wrong[0].tolist())} expected {expected[tuple(wrong[0])]}, "
        f"got {found[tuple(wrong[0])]}"
    )
    assert found.dtype == np.int32, f"{what}: expected int32, got {found.dtype}"


def test_group_sums_of_the_four_weights_in_the_text(own):
    codes, inputs = np.full((1, 32), 8, np.uint8), np.zeros((1, 32), np.int8)
    codes[0, :4], inputs[0, :4] = (9, 5, 8, 15), (10, -20, 30, 4)
    what = "c = 9, 5, 8, 15 and q = 10, -20, 30, 4 (other weights 0)"
    check(own(group_sums)(inputs, packed(codes)), [[[98]]], what)


def test_group_sums_multiply_each_weight_by_its_own_input(own):
    codes, inputs = np.eye(32, dtype=np.uint8) + np.uint8(8), np.arange(32, dtype=np.int8)[None]
    found = np.asarray(own(group_sums)(inputs, packed(codes)))
    what = "output n has one weight, of 1, for input n, and input k is k"
    check(found, np.arange(32)[None, :, None], what)


@pytest.mark.parametrize(("code", "q"), [(0, -127), (0, 127), (15, -127), (15, 127)])
def test_group_sums_of_the_largest_numbers_are_exact(own, code, q):
    inputs, codes = np.full((1, 32), q, np.int8), np.full((1, 32), code, np.uint8)
    what = f"32 times c = {code}, q = {q} (how many bits does a product need, and a sum?)"
    check(own(group_sums)(inputs, packed(codes)), [[[32 * (code - 8) * q]]], what)


@given(
    rows=st.integers(1, 3), outputs=st.integers(1, 4), groups=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_group_sums_have_one_number_per_row_output_and_group(own, rows, outputs, groups, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.integers(-127, 128, (rows, 32 * groups)).astype(np.int8)
    codes = rng.integers(0, 16, (outputs, 32 * groups)).astype(np.uint8)
    stored = packed(codes)
    before = inputs.copy(), stored.copy()
    found = own(group_sums)(inputs, stored)
    assert np.array_equal(inputs, before[0]) and np.array_equal(stored, before[1]), (
        "the arrays that are passed in must not change"
    )
    products = inputs.astype(int)[:, None] * (codes.astype(int) - 8)  # (T, N, K)
    check(found, products.reshape(rows, outputs, groups, 32).sum(-1), "random codes")
