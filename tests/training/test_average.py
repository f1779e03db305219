"""The moving average of the weights, which can become the finished model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import Module
from minimtp.engine.tensor import Parameter
from minimtp.training.average import FIRST_STEPS, WeightAverage


class Two(Module):
    def __init__(self):
        self.matrix, self.vector = Parameter(np.arange(6.0).reshape(2, 3)), Parameter(np.ones(2))


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=30), memory=st.floats(0.1, 0.99))
def test_the_average_is_the_weighted_mean_of_the_weights(values, memory):
    flat = FlatParameters(Two())
    average, weights = WeightAverage(flat, memory, {}), [1.0]
    history = [flat.data.copy()]
    for step, value in enumerate(values, start=1):
        flat.data[...] = value
        history.append(flat.data.copy())
        average.update(step)
        keep = min(memory, step / (step + FIRST_STEPS))
        weights = [keep * weight for weight in weights] + [1 - keep]
    assert sum(weights) == pytest.approx(1.0)
    average.copy_to_weights()
    np.testing.assert_allclose(
        flat.data, sum(w * h for w, h in zip(weights, history, strict=True)), rtol=1e-9, atol=1e-9
    )


def test_the_average_of_constant_weights_is_those_weights():
    flat = FlatParameters(Two())
    before, average = flat.data.copy(), WeightAverage(flat, 0.9, {})
    for step in range(1, 5):
        average.update(step)
    average.copy_to_weights()
    assert np.array_equal(flat.data, before)


def test_the_average_soon_forgets_the_initial_weights():
    flat = FlatParameters(Two())
    average = WeightAverage(flat, 0.999, {})
    flat.data += 100
    for step in range(1, 51):
        average.update(step)
    assert (
        np.abs(average.values - flat.data) < 0.01
    ).all()  # 100 times the product of step / (step + 10) is below 1e-8


def test_the_average_is_stored_by_name_and_loaded():
    flat = FlatParameters(Two())
    average = WeightAverage(flat, 0.5, {})
    flat.data += 1
    average.update(1)
    stored = {name: array.copy() for name, array in average.state().items()}
    assert set(stored) == {"average.matrix", "average.vector"}
    assert np.array_equal(WeightAverage(flat, 0.5, stored).values, average.values)
