"""Backward through a graph of operations, and what a tensor records."""

import gc
import weakref

import pytest

from minimtp.backend import numpy as np
from minimtp.engine import ops
from minimtp.engine.tensor import Tensor, backpropagate, no_grad


def test_a_tensor_used_twice_receives_the_sum_of_both_gradients():
    x = Tensor(np.array([3.0]), requires_grad=True)
    (x * x + x).backward()
    assert x.grad == pytest.approx([7.0])


def test_gradients_of_separate_graphs_add_up():
    x = Tensor(np.array([3.0]), requires_grad=True)
    (x * 2.0).backward()
    (x * 5.0).backward()
    assert x.grad == pytest.approx([7.0])


def test_two_leaves_that_receive_the_same_array_do_not_share_it():
    a, b = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    (a + b).backward(np.ones(2))
    a.grad += 1.0
    assert b.grad.tolist() == [1.0, 1.0]


def test_a_second_backward_through_the_same_graph_is_an_error_that_says_so():
    x = Tensor(np.array([3.0]), requires_grad=True)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match="already called"):
        y.backward()


def test_backward_of_a_tensor_of_several_numbers_requires_a_gradient_of_its_shape():
    x = Tensor(np.ones(3), requires_grad=True)
    with pytest.raises(ValueError, match="needs the gradient to start from"):
        (x * 2.0).backward()
    with pytest.raises(ValueError, match="gradient has shape"):
        (x * 2.0).backward(np.ones(2))


def test_backward_differentiates_several_results_at_once_even_if_one_depends_on_another():
    x = Tensor(np.array([3.0]), requires_grad=True)
    middle = x * x
    end = middle * 4.0
    backpropagate([middle, end], [np.array([1.0]), np.array([10.0])])
    assert x.grad == pytest.approx([6.0 + 10.0 * 4.0 * 6.0])


def test_a_chain_of_five_thousand_operations_does_not_recurse():
    x = Tensor(np.array([1.0]), requires_grad=True)
    y = x
    for _ in range(5000):
        y = y + 1.0
    y.backward()
    assert x.grad == pytest.approx([1.0])


def test_a_dropped_graph_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        x = Tensor(np.ones(4), requires_grad=True)
        operation = ops.Exp()
        y = operation.apply(x) * 2.0
        watch = weakref.ref(operation)
        del operation
        assert watch() is not None
        del y
        assert watch() is None
    finally:
        gc.enable()


def test_nothing_is_recorded_without_gradients():
    x = Tensor(np.ones(2), requires_grad=True)
    with no_grad():
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad


def test_combining_a_float32_tensor_with_a_number_stays_float32():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    y = 1.0 - x * 2.0 / 3.0
    assert y.dtype == np.float32
    y.backward(np.ones(2, np.float32))
    assert x.grad.dtype == np.float32
