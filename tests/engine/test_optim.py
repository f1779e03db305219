"""AdamW: groups, clipping, rate factors, and the same numbers after resuming."""

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.optim import AdamW
from tests.engine.helpers import Pair


def test_parameter_groups_are_contiguous_cover_everything_and_are_clipped_by_their_own_norms():
    pair = Pair()
    flat = FlatParameters(pair, apart=("first",))
    assert [name for name in flat.places] == ["bias", "others.0.weight", "first.weight"]
    assert flat.groups == [slice(0, 10), slice(10, 22)]
    optimizer = AdamW(
        flat, beta1=0.0, beta2=0.0, eps=1e3, weight_decay=0.0
    )  # with a large eps the step is linear in the gradient
    before = flat.data.copy()
    flat.gradients[:10] = 0.01
    flat.gradients[10:] = 100.0
    assert optimizer.step(1.0, clip=0.5) == pytest.approx((10 * 1e-4 + 12 * 1e4) ** 0.5)
    np.testing.assert_allclose((before - flat.data)[:10] * 1e3, 0.01, rtol=2e-2)
    np.testing.assert_allclose((before - flat.data)[10:] * 1e3, 0.5 / 12**0.5, rtol=2e-2)


def test_adamw_finds_the_minimum_and_gives_the_same_numbers_after_resuming():
    def train(steps, state=None):
        pair = Pair()
        flat = FlatParameters(pair)
        optimizer = AdamW(flat, weight_decay=0.0)
        if state is not None:
            flat.data[...] = state[0]
            optimizer.load_state(state[1], state[2])
        for _ in range(steps):
            flat.gradients[...] = flat.data - 1.0
            optimizer.step(0.05)
        return (
            flat.data.copy(),
            {name: array.copy() for name, array in optimizer.state().items()},
            optimizer.steps,
        )

    assert np.abs(train(400)[0] - 1.0).max() < 1e-2
    assert np.array_equal(train(10)[0], train(6, train(4))[0])


@pytest.mark.parametrize("factor", [0.0, 1.0, 20.0])
def test_a_rate_factor_scales_the_updates_of_its_parameters_and_changes_no_others(factor):
    def trained(rate_factor, apart):
        flat = FlatParameters(Pair(), apart=apart)
        optimizer = AdamW(flat, weight_decay=0.5, rate_factor=rate_factor)
        before = flat.data.copy()
        flat.gradients[...] = np.linspace(-1, 2, flat.data.size)
        optimizer.step(0.01, clip=0.3)
        return flat.by_name(flat.data - before)

    for apart in ((), ("first",)):
        found = trained(lambda name: factor if name == "bias" else 1.0, apart)
        for name, expected in trained(lambda name: 1.0, apart).items():
            if name == "bias":
                np.testing.assert_allclose(found[name], factor * expected, rtol=1e-4, atol=1e-7)
            else:
                assert np.array_equal(found[name], expected), name


def test_clipping_scales_the_gradient_to_the_given_norm():
    pair = Pair()
    flat = FlatParameters(pair)
    optimizer = AdamW(
        flat, beta1=0.0, beta2=0.0, eps=1e3, weight_decay=0.0
    )  # with a large eps the step is linear in the gradient
    flat.gradients[...] = 1.0
    before = flat.data.copy()
    norm = optimizer.step(1.0, clip=0.5)
    assert norm == pytest.approx(flat.data.size**0.5)
    np.testing.assert_allclose((before - flat.data) * 1e3, 0.5 / norm, rtol=2e-2)
