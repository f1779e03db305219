"""No number of float32 makes a grid compute with an infinite or undefined one: no floating-point
warning, and no value that is not finite.

Underflow is allowed. Numbers that are too small become 0 or subnormal, as IEEE 754 rounds them.
"""

import gguf.quants
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids import BLOCK_GRIDS, F16, POLICIES, grid_named
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.grids.scales import step_of, stretched
from minimtp.quant.packing import dequantize, pack, quantize

GRIDS = [
    *BLOCK_GRIDS, F16.name,
    *(f"int{bits}-{policy}-{over}" for bits in (2, 4, 8) for policy in POLICIES
      for over in ("g32", "g7", "channel", "g32-f32", "tensor-f32")),
    *(f"{kind}-{over}" for kind in ("nf4", "ternary") for over in ("g32", "channel", "g7-f32")),
]  # fmt: skip
TESTED = {name: name.upper() for name in ("q4_1", "q8_0", "q4_0", "q5_0", "q5_1")}
STRICT = dict(over="raise", divide="raise", invalid="raise", under="ignore")

EDGES = [0.0, 2.0**-149, 2.0**-128, 2.0**-126, 2.0**-24, 1.0, 65504.0, 65520.0, 2.0**100, 3.4e38]


def weights(seed, kind):
    """Return (2, 256) float32: every bit pattern, rows of one magnitude, or the edges of types."""
    rng = np.random.default_rng(seed)
    if kind == "bits":
        return rng.integers(0, 2**32, (2, 256), np.uint32).view(np.float32)
    if kind == "edges":
        return (rng.choice(EDGES, (2, 256)) * rng.choice([-1, 1], (2, 256))).astype(np.float32)
    numbers = rng.uniform(-1, 1, (2, 256)) * (rng.random((2, 256)) < rng.random())
    return np.ldexp(numbers, rng.integers(-149, 128, (2, 1))).astype(np.float32)


KINDS = ["magnitude", "edges", "bits"]
seeds, kinds = st.integers(0, 2**32), st.sampled_from(KINDS)


def check(name, seed, kind, other_kind, searched=False):
    grid, x, other = grid_named(name), weights(seed, kind), weights(seed + 1, other_kind)
    with np.errstate(**STRICT):
        try:
            codes, scales = grid.encode(x)
        except UserError:
            assert not np.isfinite(x).all() or np.abs(x).max() > grid.max_magnitude
            return
        values = grid.decode(codes, scales)
        assert np.isfinite(values).all()
        assert np.array_equal(dequantize(grid, pack(grid, codes, scales)), values)
        assert np.array_equal(grid.fake_quantize(x), values)
        for mask in ("round-clip", "clip-round"):
            grid.straight_through_mask(x, mask)
        if np.isfinite(other).all():  # numbers that the scales were not made for
            nearest = grid.decode(grid.nearest(other, scales), scales)
            assert np.isfinite(nearest).all()
        if searched and grid is not F16:
            found = search_scales(grid, x, np.minimum(np.abs(x[0]), np.float32(1e6)))
            assert np.isfinite(grid.decode(*found)).all()


@pytest.mark.parametrize("name", GRIDS)
@settings(max_examples=10)
@given(seed=seeds, kind=kinds, other_kind=kinds)
def test_a_grid_rounds_all_numbers_without_a_warning_to_finite_ones_or_refuses_them(
    name, seed, kind, other_kind
):
    check(name, seed, kind, other_kind, searched=seed % 4 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
def test_hundreds_of_matrices_are_rounded_without_a_warning(name):
    for seed in range(400):
        check(name, seed, KINDS[seed % 3], KINDS[seed // 3 % 3], searched=seed % 40 == 0)


@pytest.mark.parametrize("name", ["q4_0", "q8_0", "int4-affine-g32", "int8-restricted-channel"])
@settings(max_examples=20)
@given(seed=seeds, log_factor=st.floats(-80, 80))
def test_a_learned_step_that_grows_without_bound_stays_the_largest_float16(name, seed, log_factor):
    grid, x = grid_named(name), weights(seed, "magnitude")
    with np.errstate(**STRICT):
        try:
            codes, scales = grid.encode(x)
        except UserError:
            return
        factors = np.full(step_of(grid, scales).shape, np.exp(log_factor), np.float32)
        step = step_of(grid, stretched(grid, scales, factors))
    assert np.abs(step).max() <= 65504.0


@pytest.mark.parametrize("name", TESTED)
@settings(max_examples=200)
@given(seed=seeds)
def test_bytes_equal_those_of_the_gguf_package_down_to_the_smallest_numbers(name, seed):
    """For q4_0 and q5_0 wherever the step has a finite reciprocal, for the others everywhere."""
    x = weights(seed, "magnitude").reshape(-1, 32)
    x = x[np.abs(x).max(axis=1) <= grid_named(name).max_magnitude / 2]
    if name in ("q4_0", "q5_0"):
        step = np.abs(x).max(axis=1) / np.float32(8 if name == "q4_0" else 16)
        x = x[(step == 0) | (step > 2.0**-128)]
    if len(x):
        with np.errstate(all="ignore"):
            expected = gguf.quants.quantize(x, GGMLQuantizationType[TESTED[name]])
        assert quantize(grid_named(name), x).tobytes() == expected.tobytes()


# Blocks of q4_0 as the gguf package 0.17 wrote them on an x86 processor: 32 times 2**-125, whose
# step of 2**-128 has no finite reciprocal, and 32 times 1.001 * 2**-125, whose step has one.
WITHOUT_RECIPROCAL = bytes.fromhex("0080" + "00" * 16)
WITH_RECIPROCAL = bytes.fromhex("0080" + "00" * 16)


def test_below_the_range_q4_0_has_other_codes_than_the_gguf_package_and_the_same_values():
    grid = grid_named("q4_0")
    tiny = np.full((1, 32), 2.0**-125, np.float32)
    above = np.full((1, 32), 1.001 * 2.0**-125, np.float32)
    assert quantize(grid, above).tobytes() == WITH_RECIPROCAL
    assert quantize(grid, tiny).tobytes() == bytes.fromhex("0080" + "88" * 16)
    stored = np.frombuffer(WITHOUT_RECIPROCAL, np.uint8)[None]
    assert not dequantize(grid, stored).any() and not dequantize(grid, quantize(grid, tiny)).any()
