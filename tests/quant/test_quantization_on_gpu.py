"""Learned steps, calibration and quantization methods give the same results on device and host.

Results without sums have the same bits. Sums may be added in another order on the device.
"""

import pytest

from minimtp.backend import array_module, to_device
from minimtp.backend import numpy as np
from minimtp.quant.activations import round_activations
from minimtp.quant.grids import grid_named
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.ptq.awq import column_scales
from minimtp.quant.ptq.calibration import Statistics
from minimtp.quant.ptq.gptq import gptq
from minimtp.quant.ptq.hqq import hqq
from minimtp.quant.qat import learned
from minimtp.quant.qat import start_steps as start
from minimtp.quant.qat.kv_cache import fake_quantize_rows
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.quant.ptq.cases import arrays_of, moment, normal_weights

NAMES = "q4_0", "q4_1", "int3-restricted-g32"
X, GRADIENT = normal_weights(4, 64), normal_weights(4, 64, seed=2)


def there(device, *arrays):
    return [to_device(array, device) for array in arrays]


def assert_same(found, expected, device):
    """Check that nested arrays `found` are on the device and equal the host's arrays `expected`."""
    if isinstance(found, tuple | list):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, device)
    else:
        assert array_module(found) is device.xp and found.dtype == expected.dtype
        assert_close(found, expected, COMPARISONS["quantization, float32"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "method", [search_scales, hqq, lambda *a: gptq(*a, moment_there(a[1]), largest_first=True)]
)
def test_every_method_gives_the_same_result_on_the_device_as_on_the_host(name, method, device):
    grid = grid_named(name)
    codes, scales = method(grid, *there(device, X))
    expected_codes, expected_scales = method(grid, X)
    assert_same([codes, *arrays_of(scales)], [expected_codes, *arrays_of(expected_scales)], device)


def moment_there(like):
    xp = array_module(like)
    return moment(64) if xp is np else xp.asarray(moment(64))


def test_statistics_and_column_scales_are_the_same_on_the_device_as_on_the_host(device):
    found, expected = Statistics(), Statistics()
    found.add(*there(device, normal_weights(16, 64)))
    expected.add(normal_weights(16, 64))
    for name in ("second_moment", "importance", "magnitude"):
        assert_same(getattr(found, name), getattr(expected, name), device)
    column_scales_of_both = [
        column_scales(grid_named("q4_0"), x, s, lambda m: m)
        for x, s in ((*there(device, X), found), (X, expected))
    ]
    assert_same(*column_scales_of_both, device)


@pytest.mark.parametrize("how", ["int8", "int8-token"])
def test_activations_are_rounded_on_the_device_as_on_the_host(how, device):
    assert_same(round_activations(*there(device, X), how), round_activations(X, how), device)


@pytest.mark.parametrize("cache", ["int8", "int4"])
def test_cache_rows_are_rounded_on_the_device_as_on_the_host(cache, device):
    assert_same(fake_quantize_rows(*there(device, X), cache), fake_quantize_rows(X, cache), device)


OPERATIONS = {
    "steps": (
        lambda: learned.FakeQuantizeLearned(grid_named("q4_0")),
        (X, np.full(8, -0.4, np.float32)),
    ),
    "bounds": (
        lambda: learned.FakeQuantizeLearned(grid_named("q4_0"), bound=True),
        (X, np.full(8, -0.4, np.float32)),
    ),
    "offsets": (
        lambda: learned.FakeQuantizeLearned(grid_named("q4_1")),
        (X, np.full(8, -0.4, np.float32), np.full(8, 0.3, np.float32)),
    ),
    "steps with zero points": (
        lambda: learned.FakeQuantizeLearned(grid_named("int3-affine-g30")),
        (X, np.full(12, -0.4, np.float32)),
    ),
    "one step": (
        lambda: learned.FakeQuantizeLearned(grid_named("int2-restricted-tensor")),
        (X, np.full(1, -0.4, np.float32)),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_learned_operations_give_the_same_values_and_gradients_on_the_device_as_on_the_host(
    name, device
):
    make, inputs = OPERATIONS[name]
    found, expected = make(), make()
    assert_same(found.forward(*there(device, *inputs)), expected.forward(*inputs), device)
    assert_same(found.backward(*there(device, GRADIENT)), expected.backward(GRADIENT), device)


@pytest.mark.parametrize("name", ["q4_0", "int3-restricted-channel", "int3-restricted-tensor"])
def test_training_from_given_steps_is_the_same_on_the_device_as_on_the_host(name, device):
    grid = grid_named(name)
    start_steps = grid.encode(X)[1].reshape(-1)
    log_steps = np.full(start_steps.size, -0.4, np.float32)
    found, expected = (
        start.FakeQuantizeFromStart(grid, steps)
        for steps in (*there(device, start_steps), start_steps)
    )
    assert_same(found.forward(*there(device, X, log_steps)), expected.forward(X, log_steps), device)
    assert_same(found.backward(*there(device, GRADIENT)), expected.backward(GRADIENT), device)
    on_device = there(device, X, start_steps, log_steps)
    assert_same(
        start.encode_from_start(grid, *on_device),
        start.encode_from_start(grid, X, start_steps, log_steps),
        device,
    )


def test_initial_learned_steps_are_the_same_on_the_device_as_on_the_host(device):
    for name, first in (
        ("q4_0", learned.first_log_steps),
        ("q4_1", learned.first_log_steps_and_offsets),
    ):
        grid = grid_named(name)
        assert_same(first(grid, *there(device, X)), first(grid, X), device)
