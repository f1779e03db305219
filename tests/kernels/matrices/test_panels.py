"""Every weight lies at the place of its panel where the compiled matmul reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.matrices.panels import (
    GROUP,
    PANEL,
    SCALE_BYTES,
    by_panel,
    fifth_bits,
    float16_bytes,
    panels_of_groups,
    q4_0_steps,
    quantized_panels,
    step_bytes,
)

outputs, groups = st.integers(1, 70), st.integers(1, 3)
seeds = st.integers(0, 2**32)


@given(rows=outputs, columns=st.integers(1, 9), kind=st.sampled_from([np.int8, np.float32]))
def test_a_panel_holds_32_rows_and_the_last_panel_is_padded_with_rows_of_zeros(rows, columns, kind):
    matrix = np.arange(1, rows * columns + 1).reshape(rows, columns).astype(kind)
    panels = by_panel(matrix)
    expected = -(-rows // PANEL), PANEL, columns
    assert panels.shape == expected, (
        f"{rows} rows in panels of {PANEL}: expected the shape {expected}, got {panels.shape}"
    )
    assert panels.dtype == kind, f"expected {np.dtype(kind)}, got {panels.dtype}"
    assert np.array_equal(panels.reshape(-1, columns)[:rows], matrix), "the rows must be in order"
    assert not panels.reshape(-1, columns)[rows:].any(), "the rows after the last one must be zeros"


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_rows_that_fill_their_panels_need_no_further_panel(panels):
    matrix = np.ones((panels * PANEL, 5), np.float32)
    found = by_panel(matrix)
    expected = panels, PANEL, 5
    assert found.shape == expected, (
        f"{panels * PANEL} rows in panels of {PANEL}: expected the shape {expected}, "
        f"got {found.shape}"
    )


@given(rows=outputs, groups=groups, seed=seeds)
def test_each_byte_of_q4_0_holds_the_codes_for_the_same_place_of_two_activation_dwords(
    own, rows, groups, seed
):
    codes = np.random.default_rng(seed).integers(-8, 8, (rows, groups * GROUP)).astype(np.int8)
    given = codes.copy()
    packed = own(q4_0_steps)(codes)
    assert np.array_equal(codes, given), "the codes that are passed in must not change"
    expected = -(-rows // PANEL), PANEL, groups, 4, 4
    assert packed.shape == expected, f"expected the shape {expected}, got {packed.shape}"
    assert packed.dtype == np.uint8, f"expected uint8, got {packed.dtype}"
    by_row = packed.reshape(-1, groups, 4, 4)
    for step in range(4):
        for b in range(4):
            here = by_row[:rows, :, step, b]  # (N, K/32)
            for half, found, k in (("low", here & 15, 0), ("high", here >> 4, 4)):
                k += 8 * step + b
                expected = codes[:, k::GROUP] + 8
                assert np.array_equal(found, expected), (
                    f"{half} half of byte {b}, step {step}: expected the code of input {k}, plus "
                    f"8, which is {expected[found != expected][0]}, "
                    f"got {found[found != expected][0]}"
                )


@given(rows=outputs, groups=groups, steps=st.sampled_from([4, 8]), seed=seeds)
def test_each_group_of_a_panel_holds_its_scales_then_its_steps_with_a_dword_per_output(
    own, rows, groups, steps, seed
):
    rng = np.random.default_rng(seed)
    scales = rng.standard_normal((rows, groups)).astype(np.float16).astype(np.float32)
    packed = rng.integers(0, 256, (-(-rows // PANEL), PANEL, groups, steps, 4)).astype(np.uint8)
    panels = own(quantized_panels)(scales, packed)
    group_bytes = SCALE_BYTES + steps * 4 * PANEL
    expected = len(packed), groups * group_bytes
    assert panels.shape == expected, f"expected the shape {expected}, got {panels.shape}"
    assert panels.dtype == np.uint8, f"expected uint8, got {panels.dtype}"
    for g in range(groups):
        group = panels[:, g * group_bytes : (g + 1) * group_bytes]
        found = np.ascontiguousarray(group[:, :SCALE_BYTES]).view(np.float16).reshape(-1)
        assert np.array_equal(found[:rows], scales[:, g]), (
            f"group {g} must begin with the scales of its outputs, as float16"
        )
        assert not found[rows:].any(), "the scales of the padded outputs must be 0"
        for step in range(steps):
            dwords = group[:, SCALE_BYTES + step * 4 * PANEL :][:, : 4 * PANEL].reshape(
                -1, PANEL, 4
            )
            assert np.array_equal(dwords, packed[:, :, g, step]), (
                f"step {step} of group {g} must hold one dword per output"
            )


@given(rows=outputs, groups=groups, seed=seeds)
def test_the_fifth_bits_of_a_step_are_those_of_its_first_and_then_of_its_last_four_codes(
    rows, groups, seed
):
    codes = np.random.default_rng(seed).integers(0, 32, (rows, groups * GROUP)).astype(np.int8)
    packed = fifth_bits(codes)
    assert packed.shape == (-(-rows // PANEL), groups, GROUP * PANEL // 8)
    for row in range(rows):
        for k in range(groups * GROUP):
            step, half, b = k % GROUP // 8, k % 8 // 4, k % 4
            bit = 4 * (row % PANEL) + b
            byte = packed[row // PANEL, k // GROUP, 32 * step + 16 * half + bit // 8]
            assert byte >> (bit % 8) & 1 == codes[row, k] >> 4, (
                f"output {row}, k = {k}: expected bit {bit} of step {step}, half {half}"
            )


@given(rows=outputs, groups=groups, seed=seeds)
def test_minima_follow_the_scales_and_top_bits_follow_the_steps(rows, groups, seed):
    rng = np.random.default_rng(seed)
    scales, minima = rng.standard_normal((2, rows, groups)).astype(np.float16).astype(np.float32)
    count = -(-rows // PANEL)
    packed = rng.integers(0, 256, (count, PANEL, groups, 4, 4)).astype(np.uint8)
    top_bits = rng.integers(0, 256, (count, groups, 128)).astype(np.uint8)
    parts = float16_bytes(scales), float16_bytes(minima), step_bytes(packed), top_bits
    panels = panels_of_groups(parts).reshape(count, groups, -1)
    for g in range(groups):
        found = np.ascontiguousarray(panels[:, g, SCALE_BYTES : 2 * SCALE_BYTES]).view(np.float16)
        assert np.array_equal(found.reshape(-1)[:rows], minima[:, g])
        assert np.array_equal(panels[:, g, -128:], top_bits[:, g])
    without = quantized_panels(scales, packed).reshape(count, groups, -1)
    assert np.array_equal(panels[:, :, :SCALE_BYTES], without[:, :, :SCALE_BYTES])
    assert np.array_equal(panels[:, :, 2 * SCALE_BYTES : -128], without[:, :, SCALE_BYTES:])


def test_panels_begin_at_a_cache_line(own):
    packed = np.zeros((1, PANEL, 1, 4, 4), np.uint8)
    for _ in range(8):
        assert own(quantized_panels)(np.ones((3, 1), np.float32), packed).ctypes.data % 64 == 0, (
            "panels must begin at a multiple of 64 bytes: use aligned_zeros"
        )
