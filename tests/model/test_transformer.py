"""The trunk and the heads: what they may see, what they equal, and how their losses are differentiated."""

import importlib.util
import tracemalloc

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import freeze, map_parameters
from minimtp.engine.optim import AdamW
from minimtp.engine.tensor import Tensor, no_grad
from minimtp.model.config import ModelConfig
from minimtp.model.heads import HEADS, MultiTokenModel
from minimtp.model.loss import accumulate_gradients, evaluate_losses
from minimtp.model.rotary import Rotary
from minimtp.model.transformer import Transformer

SHAPE = ModelConfig(
    vocabulary_size=11,
    context_length=16,
    num_layers=2,
    hidden_size=16,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=24,
)
KINDS = ["none", *HEADS]


def build(kind="none", depth=3, tied=True, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    shape = SHAPE if tied else ModelConfig(**{**vars(SHAPE), "tied_embeddings": False})
    trunk = Transformer(shape, rng)
    model = trunk if kind == "none" else MultiTokenModel(trunk, HEADS[kind](depth, shape, rng))
    noise = np.random.default_rng(seed + 1)  # nothing stays at its starting value of zero or one
    map_parameters(
        model, lambda array: (array + 0.2 * noise.standard_normal(array.shape)).astype(dtype)
    )
    return model


def tokens(batch, length, seed=1):
    return np.random.default_rng(seed).integers(0, SHAPE.vocabulary_size, (batch, length))


@pytest.mark.parametrize("tied", [True, False])
def test_changing_a_token_changes_no_earlier_logit_and_some_later_one(tied):
    model, text = build(tied=tied), tokens(1, 10)
    changed = text.copy()
    changed[0, 6] = (changed[0, 6] + 1) % SHAPE.vocabulary_size
    a, b = (model.logits(model.hidden(t)).data for t in (text, changed))
    assert np.array_equal(a[0, :6], b[0, :6])
    assert not np.allclose(a[0, 6:], b[0, 6:])


@pytest.mark.parametrize("kind", HEADS)
def test_head_k_sees_nothing_later_than_the_k_th_next_token(kind):
    model, text, depth, changed_at = build(kind), tokens(1, 12), 3, 7
    changed = text.copy()
    changed[0, changed_at] = (changed[0, changed_at] + 1) % SHAPE.vocabulary_size
    length = 12 - depth

    def states(t):
        following = np.stack([t[:, k : length + k] for k in range(1, depth + 1)], axis=-1)
        return [
            state.data
            for state in model.heads.states(model.hidden(t[:, :length]), following, model.trunk)
        ]

    all_states = states(text), states(changed)
    for k, (a, b) in enumerate(zip(*all_states, strict=True), start=1):
        last_unaware = (
            changed_at - (0 if kind == "parallel" else k) - 1
        )  # row i reads tokens up to i, or up to i + k
        assert np.array_equal(a[0, : last_unaware + 1], b[0, : last_unaware + 1])
        assert not np.allclose(a[0, last_unaware + 1 :], b[0, last_unaware + 1 :])


def test_attention_depends_on_distance_and_not_on_position():
    rotary = Rotary(8, 10000.0)
    cosine, sine = rotary.tables(12, np.zeros(1))
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 8))

    def turn(x, position):
        pairs = x.reshape(-1, 2)
        c, s = cosine[position], sine[position]
        return np.stack(
            [pairs[:, 0] * c - pairs[:, 1] * s, pairs[:, 0] * s + pairs[:, 1] * c], axis=1
        ).ravel()

    assert turn(q, 3) @ turn(k, 1) == pytest.approx(turn(q, 11) @ turn(k, 9), abs=1e-12)


def test_rotary_tables_are_long_enough_even_if_another_thread_stores_shorter_ones_meanwhile():
    class Contested(dict):
        def __setitem__(self, key, tables):
            super().__setitem__(key, tuple(table[:1] for table in tables))

    rotary = Rotary(8, 10000.0)
    rotary._tables = Contested()
    assert [table.shape for table in rotary.tables(12, np.zeros(1))] == [(12, 4), (12, 4)]


@pytest.mark.parametrize("kind", HEADS)
def test_a_model_with_heads_predicts_the_next_token_exactly_as_its_trunk_does(kind):
    model, text = build(kind), tokens(2, 9)
    assert np.array_equal(
        model.logits(model.hidden(text)).data, model.trunk.logits(model.trunk.hidden(text)).data
    )
    plain = build("none")
    names = [name for name, _ in model.trunk.named_parameters()]
    assert names == [name for name, _ in plain.named_parameters()]


def total_loss(model, text, weights):
    nats, _ = evaluate_losses(model, text)
    means = nats.mean(axis=(0, 1))
    return means[0] + means[1:] @ weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_accumulated_gradient_is_the_derivative_of_the_weighted_loss(kind, tied):
    model = build(kind, tied=tied)
    text, weights = tokens(2, 9), np.array([0.5, 0.0, 0.2])[: model.depth]
    flat = FlatParameters(model)
    losses = accumulate_gradients(model, text, weights, scale=1.0)
    assert losses[0] + losses[1:] @ weights == pytest.approx(
        total_loss(model, text, weights), abs=1e-12
    )
    rng, step = np.random.default_rng(5), 1e-5
    for _ in range(4):
        direction = rng.standard_normal(flat.data.shape)
        direction /= np.linalg.norm(direction)
        values = []
        for sign in (1, -1):
            flat.data += sign * step * direction
            values.append(total_loss(model, text, weights))
            flat.data -= sign * step * direction
        assert flat.gradients @ direction == pytest.approx(
            (values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-8
        )


def test_a_student_that_equals_its_teacher_gets_no_gradient_from_it_and_another_one_does():
    student, teacher, other, text = build(), build(), build(seed=9), tokens(2, 9)
    accumulate_gradients(student, text, np.zeros(0), teacher=teacher, distill_weight=1.0)
    assert max(np.abs(p.grad).max() for p in student.parameters()) < 1e-15
    losses = accumulate_gradients(student, text, np.zeros(0), teacher=other, distill_weight=1.0)
    assert max(np.abs(p.grad).max() for p in student.parameters()) > 1e-3
    assert losses[0] == pytest.approx(total_loss(student, text, np.zeros(0)))


def test_distillation_mixes_the_gradients_of_text_and_teacher():
    teacher, text = build(seed=9), tokens(2, 9)
    gradients = []
    for share in (0.0, 1.0, 0.25):
        model = build()
        flat = FlatParameters(model)
        accumulate_gradients(model, text, np.zeros(0), teacher=teacher, distill_weight=share)
        gradients.append(flat.gradients)
    np.testing.assert_allclose(gradients[2], 0.75 * gradients[0] + 0.25 * gradients[1], atol=1e-14)


@pytest.mark.parametrize("kind", HEADS)
def test_detached_heads_learn_as_they_would_and_leave_the_trunks_gradient_alone(kind):
    plain, attached, detached, text = build("none"), build(kind), build(kind), tokens(2, 9)
    accumulate_gradients(plain, text[:, :6], np.zeros(0))
    expected = accumulate_gradients(attached, text, np.ones(3))
    assert np.array_equal(accumulate_gradients(detached, text, np.ones(3), detached=True), expected)
    for a, b in zip(detached.trunk.parameters(), plain.parameters(), strict=True):
        assert np.array_equal(a.grad, b.grad)
        assert a.requires_grad
    for a, b in zip(detached.heads.parameters(), attached.heads.parameters(), strict=True):
        np.testing.assert_allclose(a.grad, b.grad, atol=1e-13)


@pytest.mark.parametrize("kind", HEADS)
def test_heads_that_follow_the_trunk_get_the_gradient_of_their_divergence_from_it(kind):
    model, text, weights = build(kind), tokens(2, 10), np.array([0.5, 0.3, 0.2])
    flat = FlatParameters(model, apart=("heads",))
    heads = flat.groups[1]
    losses = accumulate_gradients(model, text, weights, detached=True, head_targets="trunk")
    assert np.array_equal(
        losses, accumulate_gradients(build(kind), text, weights)
    )  # what is reported is about the text

    def divergence():
        with no_grad():
            hidden = model.hidden(text[:, :6])
            following = np.stack([text[:, k : 6 + k] for k in range(1, 4)], axis=-1)
            states = [state.data for state in model.heads.states(hidden, following, model.trunk)]
            law = np.exp(model.logits(hidden).data)
        law = np.concatenate([law / law.sum(-1, keepdims=True), np.eye(11)[text[:, 7:]]], axis=1)
        total = 0.0
        for k, (state, weight) in enumerate(zip(states, weights, strict=True), start=1):
            logits = model.logits(Tensor(state)).data
            log_law = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            total -= weight * (law[:, k : 6 + k] * log_law).sum(-1).mean()
        return total

    direction = np.zeros(flat.data.shape)
    direction[heads] = np.random.default_rng(5).standard_normal(flat.data[heads].shape)
    flat.data += 1e-6 * direction
    above = divergence()
    flat.data -= 2e-6 * direction
    assert flat.gradients @ direction == pytest.approx((above - divergence()) / 2e-6, rel=1e-5)


def test_what_heads_learn_from_the_trunk_takes_no_matrix_of_all_tokens_by_all_tokens():
    size = 4096
    shape = ModelConfig(
        vocabulary_size=size,
        context_length=16,
        num_layers=1,
        hidden_size=4,
        num_heads=1,
        num_kv_heads=1,
        intermediate_size=4,
    )
    rng = np.random.default_rng(0)
    model = MultiTokenModel(Transformer(shape, rng), HEADS["parallel"](3, shape, rng))
    FlatParameters(model)
    text = rng.integers(0, size, (1, 10))
    accumulate_gradients(model, text, np.ones(3))  # compiles what it needs
    tracemalloc.start()
    accumulate_gradients(model, text, np.ones(3), head_targets="trunk")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        peak < size * size
    )  # bytes; a float of four for each pair of tokens would be four times that


@pytest.mark.parametrize("kind", HEADS)
def test_heads_that_follow_a_teachers_heads_get_the_gradient_of_their_divergence_from_them(kind):
    model, teacher, text, weights = (
        build(kind),
        build(kind, seed=9),
        tokens(2, 10),
        np.array([0.5, 0.3, 0.2]),
    )
    flat = FlatParameters(model, apart=("heads",))
    heads = flat.groups[1]
    losses = accumulate_gradients(
        model, text, weights, detached=True, head_targets="teacher", teacher=teacher
    )
    assert np.array_equal(
        losses, accumulate_gradients(build(kind), text, weights)
    )  # what is reported is about the text

    def logits(of):
        with no_grad():
            hidden = of.hidden(text[:, :6])
            following = np.stack([text[:, k : 6 + k] for k in range(1, 4)], axis=-1)
            found = [
                of.logits(state).data for state in of.heads.states(hidden, following, of.trunk)
            ]
        return [each - np.log(np.exp(each).sum(-1, keepdims=True)) for each in found]

    laws = [np.exp(each) for each in logits(teacher)]

    def divergence():
        return -sum(
            w * (law * own).sum(-1).mean()
            for w, law, own in zip(weights, laws, logits(model), strict=True)
        )

    direction = np.zeros(flat.data.shape)
    direction[heads] = np.random.default_rng(5).standard_normal(flat.data[heads].shape)
    flat.data += 1e-6 * direction
    above = divergence()
    flat.data -= 2e-6 * direction
    assert flat.gradients @ direction == pytest.approx((above - divergence()) / 2e-6, rel=1e-5)


def test_heads_that_follow_a_teacher_just_like_them_are_left_alone():
    model, text = build("sequential"), tokens(2, 10)
    flat = FlatParameters(model, apart=("heads",))
    accumulate_gradients(
        model,
        text,
        np.ones(3),
        detached=True,
        head_targets="teacher",
        teacher=build("sequential"),
        distill_weight=1.0,
    )
    assert np.abs(flat.gradients).max() < 1e-15


def test_heads_trained_at_every_third_position_get_the_gradient_of_those_positions_losses():
    model, text, weights = build("token_conditioned"), tokens(2, 12), np.array([0.5, 0.3, 0.2])
    flat = FlatParameters(model)
    losses = accumulate_gradients(model, text, weights, head_positions=slice(1, None, 3))
    assert model.heads.positionwise

    def loss():
        nats, _ = evaluate_losses(model, text)
        return nats[..., 0].mean() + nats[:, 1::3, 1:].mean(axis=(0, 1)) @ weights

    assert losses[0] + losses[1:] @ weights == pytest.approx(loss(), abs=1e-12)
    direction = np.random.default_rng(5).standard_normal(flat.data.shape)
    flat.data += 1e-6 * direction
    above = loss()
    flat.data -= 2e-6 * direction
    assert flat.gradients @ direction == pytest.approx((above - loss()) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_heads_of_weight_zero_leave_the_gradient_of_the_trunk_alone(kind):
    text = tokens(2, 9)
    plain, model = build("none"), build(kind)
    accumulate_gradients(plain, text[:, :6], np.zeros(0))
    losses = accumulate_gradients(model, text, np.zeros(3))
    for a, b in zip(model.trunk.parameters(), plain.parameters(), strict=True):
        assert np.array_equal(a.grad, b.grad)
    assert np.isnan(losses[1:]).all()


@pytest.mark.parametrize("kind", HEADS)
def test_heads_on_a_frozen_trunk_learn_and_leave_the_trunk_bit_for_bit_alone(kind):
    model = build(kind, dtype=np.float32)
    freeze(model.trunk)
    before = [parameter.data.copy() for parameter in model.trunk.parameters()]
    optimizer = AdamW(flat := FlatParameters(model))
    text, first = tokens(4, 12), None
    for _ in range(20):
        flat.gradients[...] = 0
        losses = accumulate_gradients(model, text, np.ones(3))
        first = losses if first is None else first
        optimizer.step(1e-2)
    assert losses[0] == first[0]
    assert (losses[1:] < first[1:]).all()
    assert all(
        np.array_equal(a, b.data) for a, b in zip(before, model.trunk.parameters(), strict=True)
    )


def test_a_small_model_learns_a_text_by_heart():
    model = build("token_conditioned", dtype=np.float32)
    optimizer = AdamW(flat := FlatParameters(model), weight_decay=0.0)
    text = tokens(2, 14)
    for _ in range(150):
        flat.gradients[...] = 0
        losses = accumulate_gradients(model, text, np.full(3, 0.3))
        optimizer.step(5e-3, clip=1.0)
    assert losses.max() < 0.1


def as_torch(torch, array):
    return torch.tensor(array, requires_grad=True)


def torch_transformer(torch, model, text):
    """The same function of the same weights, written with PyTorch's own operations."""
    weights = {
        name: as_torch(torch, parameter.data) for name, parameter in model.named_parameters()
    }
    functional, config = torch.nn.functional, model.config
    batch, length = text.shape
    heads, groups, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    position = torch.arange(length)[:, None] * torch.tensor(
        model.blocks[0].attention.rotary.frequencies
    )
    turn = torch.polar(torch.ones_like(position), position)  # (T, C/2)

    def rotate(x):  # (B, T, H, C)
        pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn[None, :, None]).flatten(-2).to(x.dtype)

    def norm(x, name):
        return functional.rms_norm(
            x, (config.hidden_size,), weights[f"{name}.weight"], config.norm_eps
        )

    x = weights["embedding.weight"][torch.tensor(text)]
    for i in range(config.num_layers):
        name = f"blocks.{i}"
        qkv = norm(x, f"{name}.attention_norm") @ weights[f"{name}.attention.qkv.weight"].T
        qkv = qkv.reshape(batch, length, -1, head_dim)
        q, k, v = (
            rotate(qkv[:, :, :heads]),
            rotate(qkv[:, :, heads : heads + groups]),
            qkv[:, :, heads + groups :],
        )
        k, v = (t.repeat_interleave(heads // groups, dim=2) for t in (k, v))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        attended = (
            functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            .transpose(1, 2)
            .reshape(batch, length, -1)
        )
        x = x + attended @ weights[f"{name}.attention.output.weight"].T
        gate, up = (
            norm(x, f"{name}.feed_forward_norm") @ weights[f"{name}.feed_forward.gate_up.weight"].T
        ).chunk(2, -1)
        x = x + (functional.silu(gate) * up) @ weights[f"{name}.feed_forward.down.weight"].T
    return norm(x, "final_norm") @ weights["embedding.weight"].T, weights


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed: no second opinion"
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_losses_and_gradients_equal_pytorchs_on_the_same_weights(dtype, tolerance):
    import torch

    model, text = build(dtype=np.dtype(dtype)), tokens(3, 13)
    losses = accumulate_gradients(model, text, np.zeros(0))
    logits, weights = torch_transformer(torch, model, text[:, :-1])
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(text[:, 1:].ravel())
    )
    loss.backward()
    assert losses[0] == pytest.approx(loss.item(), rel=tolerance)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(
            parameter.grad, weights[name].grad.numpy(), rtol=tolerance, atol=tolerance
        )


def test_evaluation_records_nothing_and_names_the_most_probable_tokens():
    model, text = build("token_conditioned"), tokens(2, 9)
    nats, predicted = evaluate_losses(model, text)
    assert nats.shape == predicted.shape == (2, 5, 4)
    with no_grad():
        logits = model.logits(model.hidden(text[:, :5])).data
    assert np.array_equal(predicted[..., 0], logits.argmax(-1))
    assert all(isinstance(p, Tensor) and p.grad is None for p in model.parameters())
