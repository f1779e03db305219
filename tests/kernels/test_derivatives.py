"""Every plain backward function is the derivative of its forward function."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from tests.helpers.tolerances import COMPARISONS, assert_close


def slope(function, x, direction, step=1e-6):
    """Return the derivative of a scalar function at x along a direction.

    It is a central difference in float64.
    """
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


DERIVATIVES = {
    # name: (function of x and other arguments, gradient of x from the gradient of the result)
    "rms_norm for x": (
        lambda x, c: plain.rms_norm(x, c[0], 1e-3)[0],
        lambda g, x, c: plain.rms_norm_backward(g, x, c[0], plain.rms_norm(x, c[0], 1e-3)[1])[0],
    ),
    "rms_norm for the weight": (
        lambda w, c: plain.rms_norm(c, w[0], 1e-3)[0],
        lambda g, w, c: plain.rms_norm_backward(g, c, w[0], plain.rms_norm(c, w[0], 1e-3)[1])[1],
    ),
    "swiglu": (lambda x, c: plain.swiglu(x), lambda g, x, c: plain.swiglu_backward(g, x)),
    "gated_update for the state": (
        lambda x, c: plain.gated_update(x, np.hstack([c, 2 * c])),
        lambda g, x, c: plain.gated_update_backward(g, x, np.hstack([c, 2 * c]))[0],
    ),
    "gated_update for gate and candidate": (
        lambda x, c: plain.gated_update(c[:, :4], x),
        lambda g, x, c: plain.gated_update_backward(g, c[:, :4], x)[1],
    ),
    "rotate": (
        lambda x, c: plain.rotate(x.reshape(1, 6, 1, 8), np.cos(c[:, :4]), np.sin(c[:, :4])),
        lambda g, x, c: plain.rotate(g, np.cos(c[:, :4]), -np.sin(c[:, :4])).reshape(6, 8),
    ),
    "causal_softmax": (
        lambda x, c: plain.causal_softmax(x[None, :, :6].copy(), 0.7),
        lambda g, x, c: np.pad(
            plain.causal_softmax_backward(
                g.copy(), plain.causal_softmax(x[None, :, :6].copy(), 0.7), 0.7
            )[0],
            ((0, 0), (0, 2)),
        ),
    ),
    "cross_entropy": (
        lambda x, c: plain.cross_entropy(x, np.array([0, 7, -1, 3, 3, 2]))[0],
        lambda g, x, c: plain.cross_entropy_backward(
            x,
            np.array([0, 7, -1, 3, 3, 2]),
            plain.cross_entropy(x, np.array([0, 7, -1, 3, 3, 2]))[1],
            g,
        ),
    ),
}


@pytest.mark.parametrize("name", DERIVATIVES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_each_backward_is_the_derivative_of_its_forward(name, seed):
    forward, backward = DERIVATIVES[name]
    rng = np.random.default_rng(seed)
    x, other, direction = rng.standard_normal((3, 6, 8))
    g = rng.standard_normal(forward(x, other).shape)
    expected = slope(lambda x: float((g * forward(x, other)).sum()), x, direction)
    gradient = backward(g, x, other)
    found = (
        float((gradient * direction).sum())
        if gradient.shape == x.shape
        else float(gradient @ direction[0])
    )
    assert_close(found, expected, COMPARISONS["derivative, float64"])
