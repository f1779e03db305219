"""Every grid and packing order gives the same bits on a device as on the host."""

import pytest

from minimtp.backend import numpy as np
from minimtp.backend import to_device, to_numpy
from minimtp.quant import packing
from minimtp.quant.bit_packing import ORDERS, pack4, unpack4
from minimtp.quant.grids.rounding import ROUNDINGS
from tests.grid_properties import GRIDS
from tests.vectors.ggml_cases import bell, importance


def arrays_of(scales):
    return list(scales) if isinstance(scales, tuple) else [scales]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_grid_rounds_and_packs_on_the_device_as_on_the_host(grid, device):
    x = bell(11, (2, 512))
    there = to_device(x, device)
    codes, scales = grid.encode(there)
    expected_codes, expected_scales = grid.encode(x)
    assert np.array_equal(to_numpy(codes), expected_codes)
    for found, expected in zip(arrays_of(scales), arrays_of(expected_scales), strict=True):
        assert np.array_equal(to_numpy(found), expected)
    assert np.array_equal(to_numpy(grid.fake_quantize(there)), grid.fake_quantize(x))
    assert np.array_equal(to_numpy(grid.nearest(there, scales)), grid.nearest(x, expected_scales))
    packed = packing.pack(grid, codes, scales)
    assert np.array_equal(to_numpy(packed), packing.quantize(grid, x))
    assert np.array_equal(to_numpy(packing.dequantize(grid, packed)), grid.fake_quantize(x))
    for mask in ("round-clip", "clip-round"):
        found = grid.straight_through_mask(there, mask)
        expected = grid.straight_through_mask(x, mask)
        assert (found is expected is None) or np.array_equal(to_numpy(found), expected)


@pytest.mark.parametrize(
    "grid", [g for g in GRIDS if g.name in ("q4_0", "q4_1", "q4_k", "q6_k")], ids=str
)
def test_importance_gives_the_same_bytes_on_the_device_as_on_the_host(grid, device):
    x, weights = bell(11, (2, 512)), importance()
    found = grid.pack(*grid.encode(to_device(x, device), importance=to_device(weights, device)))
    assert np.array_equal(to_numpy(found), grid.pack(*grid.encode(x, importance=weights)))


def test_rounding_modes_and_packing_orders_are_the_same_on_the_device_as_on_the_host(device):
    x = np.arange(-40, 40, dtype=np.float32) / 4
    for rounding in ROUNDINGS.values():
        assert np.array_equal(to_numpy(rounding(to_device(x, device))), rounding(x))
    codes = np.arange(37, dtype=np.uint8) % 16
    for order in ORDERS:
        packed = pack4(to_device(codes, device), order)
        assert np.array_equal(to_numpy(packed), pack4(codes, order))
        assert np.array_equal(to_numpy(unpack4(packed, order, 37)), codes)
