"""The innermost loops of the compiled matmuls."""

import pytest

from minimtp.backend import numpy as np
from tests.kernels.both import cpu, needs_numba, normal, prepared

PRODUCTS = {
    "q4_0": "Q4", "q4_1": "Q4WithMinimum", "q5_0": "Q5", "q5_1": "Q5WithMinimum", "q8_0": "Q8",
}  # fmt: skip


@needs_numba
@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("dots", [True, False])
@pytest.mark.parametrize("format_", PRODUCTS)
def test_every_instruction_that_multiplies_codes_gives_the_same_bits(
    format_, dots, portable, monkeypatch
):
    from minimtp.kernels.cpu.matrices import code_products
    from minimtp.kernels.cpu.matrices import packed_linear as cpu_products
    from minimtp.kernels.cpu.matrices import tiles as cpu_tiles
    from minimtp.kernels.cpu.matrices import vectors as cpu_vectors

    kind = getattr(code_products, PRODUCTS[format_] + ("Dots" if dots else "Shorts"))
    rng = np.random.default_rng(8)
    x, weight = normal(rng, 3, 96), normal(rng, 32, 96)
    weight[:, :32] *= 1e-5  # scales that are subnormal in float16
    expected = cpu.linear(x, prepared(cpu, format_, weight))
    if portable:
        monkeypatch.setattr(cpu_vectors, "special_instructions", lambda context_length: set())
    monkeypatch.setattr(
        cpu_products, "Q8", kind
    )  # the layout of the q8_0 codes depends on the instruction that multiplies them
    panels = prepared(cpu, format_, weight).panels
    rounding, tile = kind.round_rows, cpu_tiles.quantized_tile({0: kind}, 3)

    @cpu.numba.njit
    def multiply(x, panels, codes, scales, starts, y, fetches):
        rounding(x, codes, scales, starts)
        tile(0, codes, scales, starts, 0, panels, 0, y, 0, 0, fetches)

    codes = np.empty((3, 96), np.int8 if kind.code_size == 1 else np.int16)
    y = np.empty((3, 32), np.float32)
    multiply(x, panels, codes, np.empty((3, 3), np.float32), np.empty((3, 3), np.int32), y, 1)
    assert y.tobytes() == expected.tobytes()


@needs_numba
# totals: 1, 2 or 4 vectors per part, but at most the vectors of a panel
@pytest.mark.parametrize("totals", [4, 8, 16])
@pytest.mark.parametrize("of_columns", [False, True])
def test_a_tile_computed_in_parts_has_the_bits_of_the_tile_computed_at_once(
    totals, of_columns, monkeypatch
):
    from minimtp.kernels.cpu.matrices import tiles as cpu_tiles

    monkeypatch.setattr(cpu_tiles, "FLOAT_TOTALS", totals)
    tile = cpu_tiles.float_tile(4, of_columns)

    @cpu.numba.njit
    def multiply(x, weights, start, stride, depth, y, fetches):
        tile(x, 1, weights, start, stride, depth, y, 2, 5, fetches)

    rng, stretch = np.random.default_rng(9), cpu_tiles.STRETCH
    for depth in (1, stretch - 1, stretch, stretch + 1, 2 * stretch, 2 * stretch + 44):
        x, weight = normal(rng, 5, depth), normal(rng, 32, depth)
        whole = cpu.linear(x[1:], cpu.prepare_f32(weight))
        for fetches, stride, start in ((0, 32, 0), (1, 32, 0), (0, 40, 3)):
            lines = np.full(start + depth * stride, np.nan, np.float32)
            lines[start:].reshape(depth, stride)[:, :32] = weight.T
            found = np.full((7, 40), np.nan, np.float32)
            multiply(
                np.ascontiguousarray(x.T) if of_columns else x,
                lines,
                start,
                stride,
                depth,
                found,
                fetches,
            )
            assert found[2:6, 5:37].tobytes() == whole.tobytes()
            found[2:6, 5:37] = np.nan
            assert np.isnan(found).all()
    nothing = np.full((7, 40), np.nan, np.float32)
    multiply(
        np.empty((0, 5) if of_columns else (5, 0), np.float32),
        np.empty(0, np.float32),
        0,
        32,
        0,
        nothing,
        0,
    )
    assert not nothing[2:6, 5:37].any()
