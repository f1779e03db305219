"""The gradients of all operations."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np
from minimtp.engine import fused, ops
from minimtp.engine.broadcasting import undo_broadcasting
from minimtp.engine.gradcheck import check_gradients
from minimtp.engine.tensor import Op
from minimtp.kernels import plain
from minimtp.model.heads.unrolled_attention import Rotate, UnrolledAttention
from minimtp.quant.qat import fake_quantize as fake  # noqa: F401  (registers its operations)
from tests.engine.helpers import normal, rng


def angles(length, head_dim):
    angle = rng.uniform(0, 6, (length, head_dim // 2))
    return np.cos(angle), np.sin(angle)


# One sample per operation: how to make it, and float64 inputs. A test below fails if a registered
# operation has no sample.
SAMPLES = {
    "Add": (ops.Add, [normal(3, 4), normal(4)]),
    "Multiply": (ops.Multiply, [normal(3, 4), normal(3, 1)]),
    "Divide": (ops.Divide, [normal(3, 4), normal(2, 3, 4) + 4.0]),
    "Power": (lambda: ops.Power(3.0), [normal(5)]),
    "PowerZero": (lambda: ops.Power(0.0), [np.array([0.0, 1.0, -2.0])]),
    "Exp": (ops.Exp, [normal(3, 2)]),
    "Log": (ops.Log, [np.exp(normal(3, 2))]),
    "Tanh": (ops.Tanh, [normal(3, 2)]),
    "SiLU": (ops.SiLU, [3 * normal(3, 5)]),
    "Sum": (lambda: ops.Sum((0, 2)), [normal(2, 3, 4)]),
    "Reshape": (lambda: ops.Reshape((4, 3)), [normal(2, 6)]),
    "Transpose": (lambda: ops.Transpose((2, 0, 1)), [normal(2, 3, 4)]),
    "Index": (lambda: ops.Index(np.array([0, 2, 0])), [normal(3, 4)]),
    "IndexOfASlice": (lambda: ops.Index((slice(None), slice(1, None, 2))), [normal(3, 4)]),
    "IndexOfTheLastAxis": (lambda: ops.Index((..., slice(1, 3))), [normal(2, 3, 4)]),
    "Concatenate": (ops.Concatenate, [normal(2, 3), normal(2, 1), normal(2, 2)]),
    "MatMul": (ops.MatMul, [normal(5, 2, 3), normal(3, 4)]),
    "LinearMatMul": (fused.LinearMatMul, [normal(2, 3, 4), normal(5, 4)]),
    "EmbeddingLookup": (
        lambda: fused.EmbeddingLookup(np.array([[0, 2, 2], [1, 0, 2]])),
        [normal(4, 3)],
    ),
    "RMSNormalize": (lambda: fused.RMSNormalize(1e-5), [normal(2, 3, 8), normal(8)]),
    "GatedUpdate": (fused.GatedUpdate, [normal(2, 3, 4), normal(2, 3, 8)]),
    "SwiGLU": (fused.SwiGLU, [normal(2, 3, 8)]),
    "CausalAttention": (lambda: fused.CausalAttention(4, 2, *ANGLES), [normal(2, 5, 8 * 4)]),
    "Rotate": (lambda: Rotate(*ANGLES), [normal(2, 5, 3 * 4)]),
    "UnrolledAttention": (
        lambda: UnrolledAttention(4, 2, np.array([0, 2, 4])),
        [normal(2, 3, 16), *(normal(2, rows, 8) for rows in (5, 5, 3, 3))],
    ),
    "CrossEntropy": (lambda: fused.CrossEntropy(np.array([0, 3, -1, 2])), [3 * normal(4, 5)]),
}
ANGLES = angles(5, 4)
OURS = {name: op for name, op in Op.registry.items() if op.__module__.startswith("minimtp")}
DERIVATIVES = sorted(name for name, op in OURS.items() if not op.straight_through)


def test_every_registered_operation_has_a_sample():
    assert set(DERIVATIVES) <= set(SAMPLES), (
        "some operations have no sample for the gradient check: add one to SAMPLES"
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_the_backward_of_every_registered_operation_is_the_derivative_of_its_forward(name):
    make, inputs = SAMPLES[name]
    check_gradients(lambda *tensors: make().apply(*tensors), inputs, name=name)


@pytest.mark.parametrize("queries", [1, 2, 3])
def test_attention_in_blocks_of_queries_equals_attention_in_one_block(monkeypatch, queries):
    make, inputs = SAMPLES["CausalAttention"]
    whole = make().forward(*inputs)
    monkeypatch.setattr(fused, "QUERIES", queries)
    np.testing.assert_allclose(make().forward(*inputs), whole, rtol=0, atol=1e-14)
    check_gradients(lambda *tensors: make().apply(*tensors), inputs, name="attention in blocks")


def test_the_gradient_of_attention_does_not_depend_on_the_memory_layout_of_its_products(
    monkeypatch,
):
    make, inputs = SAMPLES["CausalAttention"]
    scattered = SimpleNamespace(
        **vars(plain) | {"matmul": lambda a, b: np.asfortranarray(plain.matmul(a, b))}
    )
    monkeypatch.setattr(fused.kernels, "for_array", lambda x: scattered)
    check_gradients(
        lambda *tensors: make().apply(*tensors), inputs, name="attention of scattered products"
    )


def test_a_wrong_backward_is_reported_with_operation_input_index_expected_and_received():
    class WrongSquare(Op):
        def forward(self, a):
            self.a = a
            return a * a

        def backward(self, gradient):
            return gradient * self.a  # a factor of 2 is missing

    with pytest.raises(
        AssertionError, match=r"wrong square: gradient of input 0 at \(\d,\): expected .*, got"
    ):
        check_gradients(lambda a: WrongSquare().apply(a), [normal(4)], name="wrong square")


def test_division_divides_and_obeys_the_quotient_rule(own):
    make, inputs = SAMPLES["Divide"]
    division, expected = own(ops.Divide)(), inputs[0] / inputs[1]
    np.testing.assert_allclose(division.forward(*inputs), expected, rtol=1e-15)
    gradients = division.backward(np.ones(expected.shape))
    assert isinstance(gradients, tuple) and len(gradients) == 2, (
        "backward must return a tuple of two gradients, those of a and b"
    )
    check_gradients(lambda a, b: own(ops.Divide)().apply(a, b), inputs, name="Divide")
    check_gradients(
        lambda a, b: own(ops.Divide)().apply(a, b),
        [normal(2), normal(2) - 4.0],
        name="Divide by negatives",
    )
    check_gradients(
        lambda a, b: own(ops.Divide)().apply(own(ops.Divide)().apply(a, b), b),
        [normal(2), normal(2) + 4.0],
        name="two divisions, each with its own stored arrays",
    )


def test_silu_is_x_times_its_sigmoid_and_obeys_the_product_rule(own):
    x = np.linspace(-6.0, 6.0, 13)
    given_x, expected = x.copy(), x / (1.0 + np.exp(-x))
    result = own(ops.SiLU)().forward(given_x)
    assert np.array_equal(given_x, x), "forward must not change its input"
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-15)  # rounding of numbers up to 6
    check_gradients(lambda a: own(ops.SiLU)().apply(a), [x], name="SiLU")
    check_gradients(
        lambda a: own(ops.SiLU)().apply(own(ops.SiLU)().apply(a)),
        [x],
        name="SiLU of SiLU, each with its own stored arrays",
    )


def test_silu_does_not_overflow_far_from_zero(own):
    silu = own(ops.SiLU)()
    with np.errstate(over="raise", invalid="raise"):
        result = silu.forward(np.array([-1000.0, 0.0, 1000.0]))
        slopes = silu.backward(np.ones(3))
    # A rounding error of the sigmoid, times 1000. A sigmoid of x limited to -100 gives -4e-41.
    np.testing.assert_allclose(result, [0.0, 0.0, 1000.0], atol=2e-13)
    np.testing.assert_allclose(slopes, [0.0, 0.5, 1.0], atol=2e-13)


@given(arrays.broadcastable_shapes((2, 3, 4), min_dims=0, max_side=4), st.integers(0, 2**32))
def test_undoing_a_broadcast_sums_the_gradients_of_all_copies_of_an_input(own, shape, seed):
    # The definition of a backward: for a change d of the input, <gradient, broadcast(d)> =
    # <backward(gradient), d>.
    random = np.random.default_rng(seed)
    change = random.standard_normal(shape)
    gradient = random.standard_normal(np.broadcast_shapes(shape, (2, 3, 4)))
    result = own(undo_broadcasting)(gradient, shape)
    assert result.shape == shape, (
        f"an input of shape {shape} needs a gradient of the same shape, not {result.shape}"
    )
    expected = float((gradient * change).sum())
    assert float((result * change).sum()) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_operators_agree_with_their_operations_on_gradients():
    check_gradients(
        lambda a, b: (2.0 - a) / (b * b + 1.0) - 3.0 * a**2 + (1.0 / (b * b + 2.0)),
        [normal(3), normal(3)],
    )
    check_gradients(
        lambda a, b: (a @ b)[0].reshape(2, 2).transpose(1, 0).sum(axis=1),
        [normal(3, 2), normal(2, 4)],
    )
    check_gradients(lambda a: a.mean() * a, [normal(3, 2)])
