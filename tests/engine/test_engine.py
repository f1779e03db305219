"""The gradients of all operations, backward through a graph, modules, shards and AdamW."""

import gc
import weakref
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np
from minimtp.engine import fused, ops
from minimtp.engine.broadcasting import undo_broadcasting
from minimtp.engine.flat import FlatParameters
from minimtp.engine.gradcheck import check_gradients
from minimtp.engine.module import Module, freeze, replace_modules, replicate
from minimtp.engine.optim import AdamW
from minimtp.engine.replicas import Replicas
from minimtp.engine.tensor import Op, Parameter, Tensor, backpropagate, no_grad
from minimtp.kernels import plain
from minimtp.model.layers import Linear
from minimtp.quant.qat import fake_quantize as fake  # noqa: F401  (registers its operations)

rng = np.random.default_rng(7)


def normal(*shape):
    return rng.standard_normal(shape)


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
    "Exp": (ops.Exp, [normal(3, 2)]),
    "Log": (ops.Log, [np.exp(normal(3, 2))]),
    "Tanh": (ops.Tanh, [normal(3, 2)]),
    "SiLU": (ops.SiLU, [3 * normal(3, 5)]),
    "Sum": (lambda: ops.Sum((0, 2)), [normal(2, 3, 4)]),
    "Reshape": (lambda: ops.Reshape((4, 3)), [normal(2, 6)]),
    "Transpose": (lambda: ops.Transpose((2, 0, 1)), [normal(2, 3, 4)]),
    "Index": (lambda: ops.Index(np.array([0, 2, 0])), [normal(3, 4)]),
    "IndexOfASlice": (lambda: ops.Index((slice(None), slice(1, None, 2))), [normal(3, 4)]),
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
    "SoftCrossEntropy": (
        lambda: fused.SoftCrossEntropy(np.array([[0.2, 0.8, 0.0], [0.0, 0.0, 1.0]])),
        [3 * normal(2, 3)],
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
    np.testing.assert_allclose(
        own(ops.Divide)().forward(*inputs), inputs[0] / inputs[1], rtol=1e-15
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
    np.testing.assert_allclose(
        own(ops.SiLU)().forward(x), x / (1.0 + np.exp(-x)), rtol=0, atol=2e-15
    )  # a few rounding errors of numbers up to 6
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
    # Smaller than any rounding error elsewhere, but a sigmoid of x limited to -500 gives -7e-215.
    np.testing.assert_allclose(result, [0.0, 0.0, 1000.0], atol=1e-200)
    np.testing.assert_allclose(slopes, [0.0, 0.5, 1.0], atol=1e-200)


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


class Pair(Module):
    def __init__(self):
        self.first = Linear(3, 4, np.random.default_rng(0))
        self.others = [Linear(4, 2, np.random.default_rng(1)), self.first]
        self.bias = Parameter(np.zeros(2, np.float32))

    def __call__(self, x):
        return self.others[0](self.first(x)) + self.bias


def test_parameters_are_found_in_attributes_and_lists_and_shared_ones_once():
    assert [name for name, _ in Pair().named_parameters()] == [
        "bias",
        "first.weight",
        "others.0.weight",
    ]


def test_replacing_a_module_replaces_every_use_of_it():
    pair = Pair()
    new = Linear(3, 4, np.random.default_rng(2))
    replace_modules(pair, lambda name, module: new if module is pair.first else None)
    assert pair.first is new
    assert pair.others[1] is new


def test_a_replaced_module_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        pair = replicate(Pair())
        watch = weakref.ref(pair.first.weight.data)
        watch_module = weakref.ref(pair.others[0])
        replace_modules(
            pair, lambda name, module: Linear(1, 1, rng) if isinstance(module, Linear) else None
        )
        assert watch_module() is None
        assert watch() is None
    finally:
        gc.enable()


def test_flat_parameters_share_their_memory_with_the_parameters_of_the_model():
    pair = Pair()
    x = Tensor(normal(5, 3).astype(np.float32))
    before = pair(x).data
    flat = FlatParameters(pair)
    assert np.array_equal(pair(x).data, before)
    pair(x).backward(np.ones((5, 2), np.float32))
    assert np.array_equal(flat.by_name(flat.gradients)["bias"], [5.0, 5.0])
    flat.data[...] = 0
    assert not pair(x).data.any()


def test_frozen_parameters_are_neither_moved_nor_decayed():
    pair = Pair()
    freeze(pair.first)
    flat = FlatParameters(pair)
    assert list(flat.places) == ["bias", "others.0.weight"]
    assert flat.decay_mask.tolist() == [0.0] * 2 + [1.0] * 8


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_on_replicas_give_the_gradient_of_the_whole_batch(count):
    x = normal(6, 3).astype(np.float32)

    def run(model, rows):
        output = model(Tensor(rows))
        output.backward(2.0 * output.data)
        return float((output.data**2).sum())

    whole, sharded = Pair(), Pair()
    whole_flat, sharded_flat = FlatParameters(whole), FlatParameters(sharded)
    run(whole, x)
    replicas = Replicas(sharded, sharded_flat, count)
    for _ in range(2):  # each call starts from zero gradients
        replicas.run(run, np.array_split(x, count))
    replicas.close()
    np.testing.assert_allclose(sharded_flat.gradients, whole_flat.gradients, rtol=1e-4, atol=1e-5)


def test_a_replica_shares_parameters_but_not_gradients():
    pair = Pair()
    copy = replicate(pair)
    assert copy.first.weight.data is pair.first.weight.data
    assert copy.others[1] is copy.first
    copy.first.weight.grad = np.ones(1)
    assert pair.first.weight.grad is None


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
