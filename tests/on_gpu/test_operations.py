"""Operations, their gradients and the grids give the same results on a device as on the host.

Without a GPU the device is the strict stand-in for CuPy (strict_cupy). With `pytest -m gpu` it
is the GPU.
"""

import pytest

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.engine.gradcheck import check_gradients
from minimtp.engine.tensor import Op
from minimtp.quant import packing
from minimtp.quant.grids import GRIDS, MASKS
from tests.engine.test_ops import SAMPLES
from tests.on_gpu.cases import assert_same


def on(device, value):
    """Return the value with all its arrays on the device, including those stored in an Op."""
    if isinstance(value, np.ndarray):
        return device.xp.asarray(value)
    if isinstance(value, (list, tuple)):
        return type(value)(on(device, member) for member in value)
    if isinstance(value, Op):
        vars(value).update({name: on(device, member) for name, member in vars(value).items()})
    return value


@pytest.mark.parametrize("name", SAMPLES)
def test_every_operation_gives_the_same_result_and_gradients_as_on_the_host(device, name):
    make, inputs = SAMPLES[name]
    host, ours = make(), on(device, make())
    expected, found = host.forward(*inputs), ours.forward(*on(device, inputs))
    assert_same(found, expected, "operation, float64")
    gradient = np.random.default_rng(5).standard_normal(expected.shape)
    parts = [op.backward(g) for op, g in ((host, gradient), (ours, on(device, gradient)))]
    parts = [part if isinstance(part, tuple) else (part,) for part in parts]
    for theirs, mine in zip(*parts, strict=True):
        assert_same(mine, theirs, "operation, float64")


@pytest.mark.parametrize("name", SAMPLES)
def test_the_gradient_check_of_every_operation_passes_on_device_arrays(device, name):
    make, inputs = SAMPLES[name]
    check_gradients(
        lambda *tensors: on(device, make()).apply(*tensors),
        on(device, inputs),
        name=name,
        max_elements=8,
    )


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_grids_round_pack_and_mask_to_the_same_bits_as_on_the_host(device, grid, mask):
    weights = np.random.default_rng(1).standard_normal((6, 96)).astype(np.float32)
    there = on(device, weights)
    assert to_numpy(grid.fake_quantize(there)).tobytes() == grid.fake_quantize(weights).tobytes()
    packed = packing.quantize(grid, weights)
    assert to_numpy(packing.quantize(grid, there)).tobytes() == packed.tobytes()
    expected = packing.dequantize(grid, packed)
    found = packing.dequantize(grid, on(device, packed))
    assert to_numpy(found).tobytes() == expected.tobytes()
    expected = grid.straight_through_mask(weights, mask)
    found = grid.straight_through_mask(there, mask)
    assert (expected is None) == (found is None)
    assert expected is None or np.array_equal(expected, to_numpy(found))
