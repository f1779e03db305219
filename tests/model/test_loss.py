"""Gradients of the multi-token loss, for every kind of training target."""

import tracemalloc
from dataclasses import replace

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import freeze
from minimtp.engine.optim import AdamW
from minimtp.engine.tensor import Tensor, no_grad
from minimtp.model.config import ModelConfig
from minimtp.model.heads import HEADS, MultiTokenModel
from minimtp.model.loss import Objective, accumulate_gradients, evaluate_losses
from minimtp.model.transformer import Transformer
from tests.model.cases import KINDS, SHAPE, build, tokens, total_loss


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_accumulated_gradient_is_the_derivative_of_the_weighted_loss(kind, tied):
    model = build(kind, tied=tied)
    text, weights = tokens(2, 9), np.array([0.5, 0.0, 0.2])[: model.depth]
    flat = FlatParameters(model)
    losses = accumulate_gradients(model, text, Objective(weights), scale=1.0)
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


def test_a_student_gets_a_gradient_from_its_teacher_only_if_they_differ():
    student, teacher, other, text = build(), build(), build(seed=9), tokens(2, 9)
    accumulate_gradients(student, text, Objective(teacher=teacher, distill_weight=1.0))
    assert max(np.abs(p.grad).max() for p in student.parameters()) < 1e-15
    losses = accumulate_gradients(student, text, Objective(teacher=other, distill_weight=1.0))
    assert max(np.abs(p.grad).max() for p in student.parameters()) > 1e-3
    assert losses[0] == pytest.approx(total_loss(student, text, np.zeros(0)))


def test_distillation_mixes_the_gradients_of_text_and_teacher():
    teacher, text = build(seed=9), tokens(2, 9)
    gradients = []
    for share in (0.0, 1.0, 0.25):
        model = build()
        flat = FlatParameters(model)
        accumulate_gradients(model, text, Objective(teacher=teacher, distill_weight=share))
        gradients.append(flat.gradients)
    np.testing.assert_allclose(gradients[2], 0.75 * gradients[0] + 0.25 * gradients[1], atol=1e-14)


@pytest.mark.parametrize("kind", HEADS)
def test_detached_heads_get_the_same_gradient_and_do_not_change_the_trunk_gradient(kind):
    plain, attached, detached, text = build("none"), build(kind), build(kind), tokens(2, 9)
    accumulate_gradients(plain, text[:, :6])
    expected = accumulate_gradients(attached, text, Objective(np.ones(3)))
    assert np.array_equal(
        accumulate_gradients(detached, text, Objective(np.ones(3), detached=True)), expected
    )
    for a, b in zip(detached.trunk.parameters(), plain.parameters(), strict=True):
        assert np.array_equal(a.grad, b.grad)
        assert a.requires_grad
    for a, b in zip(detached.heads.parameters(), attached.heads.parameters(), strict=True):
        np.testing.assert_allclose(a.grad, b.grad, atol=1e-13)


@pytest.mark.parametrize("kind", HEADS)
def test_head_targets_trunk_give_heads_the_gradient_of_their_divergence_from_the_trunk(kind):
    model, text, weights = build(kind), tokens(2, 10), np.array([0.5, 0.3, 0.2])
    flat = FlatParameters(model, apart=("heads",))
    heads = flat.groups[1]
    losses = accumulate_gradients(
        model, text, Objective(weights, detached=True, head_targets="trunk")
    )
    # The reported losses are those on the text.
    assert np.array_equal(losses, accumulate_gradients(build(kind), text, Objective(weights)))

    def divergence():
        with no_grad():
            hidden = model.trunk_states(text[:, :6])
            following = np.stack([text[:, k : 6 + k] for k in range(1, 4)], axis=-1)
            states = [state.data for state in model.heads.states(hidden, following, model.trunk)]
            distribution = np.exp(model.logits(model.hidden(text[:, :6])).data)
        distribution = np.concatenate(
            [distribution / distribution.sum(-1, keepdims=True), np.eye(11)[text[:, 7:]]], axis=1
        )
        total = 0.0
        for k, (state, weight) in enumerate(zip(states, weights, strict=True), start=1):
            logits = model.logits(Tensor(state)).data
            log_distribution = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            total -= weight * (distribution[:, k : 6 + k] * log_distribution).sum(-1).mean()
        return total

    direction = np.zeros(flat.data.shape)
    direction[heads] = np.random.default_rng(5).standard_normal(flat.data[heads].shape)
    flat.data += 1e-6 * direction
    above = divergence()
    flat.data -= 2e-6 * direction
    assert flat.gradients @ direction == pytest.approx((above - divergence()) / 2e-6, rel=1e-5)


def test_head_targets_trunk_need_no_vocabulary_by_vocabulary_matrix():
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
    accumulate_gradients(model, text, Objective(np.ones(3)))  # compiles the kernels
    tracemalloc.start()
    accumulate_gradients(model, text, Objective(np.ones(3), head_targets="trunk"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size * size  # bytes; such a matrix of float32 would need four times as many


@pytest.mark.parametrize("kind", HEADS)
def test_head_targets_teacher_give_heads_the_gradient_of_their_divergence_from_the_teacher(kind):
    model, teacher = build(kind), build(kind, seed=9)
    text, weights = tokens(2, 10), np.array([0.5, 0.3, 0.2])
    flat = FlatParameters(model, apart=("heads",))
    heads = flat.groups[1]
    losses = accumulate_gradients(
        model, text, Objective(weights, detached=True, head_targets="teacher", teacher=teacher)
    )
    # The reported losses are those on the text.
    assert np.array_equal(losses, accumulate_gradients(build(kind), text, Objective(weights)))

    def logits(of):
        with no_grad():
            hidden = of.trunk_states(text[:, :6])
            following = np.stack([text[:, k : 6 + k] for k in range(1, 4)], axis=-1)
            found = [
                of.logits(state).data for state in of.heads.states(hidden, following, of.trunk)
            ]
        return [each - np.log(np.exp(each).sum(-1, keepdims=True)) for each in found]

    distributions = [np.exp(each) for each in logits(teacher)]

    def divergence():
        return -sum(
            w * (distribution * own).sum(-1).mean()
            for w, distribution, own in zip(weights, distributions, logits(model), strict=True)
        )

    direction = np.zeros(flat.data.shape)
    direction[heads] = np.random.default_rng(5).standard_normal(flat.data[heads].shape)
    flat.data += 1e-6 * direction
    above = divergence()
    flat.data -= 2e-6 * direction
    assert flat.gradients @ direction == pytest.approx((above - divergence()) / 2e-6, rel=1e-5)


def test_heads_that_equal_the_heads_of_their_teacher_get_no_gradient():
    model, text = build("sequential"), tokens(2, 10)
    flat = FlatParameters(model, apart=("heads",))
    accumulate_gradients(
        model,
        text,
        Objective(
            np.ones(3),
            detached=True,
            head_targets="teacher",
            teacher=build("sequential"),
            distill_weight=1.0,
        ),
    )
    assert np.abs(flat.gradients).max() < 1e-15


def test_heads_trained_at_every_third_position_get_the_gradient_of_the_loss_at_those_positions():
    model, text, weights = build("token_conditioned"), tokens(2, 12), np.array([0.5, 0.3, 0.2])
    flat = FlatParameters(model)
    losses = accumulate_gradients(model, text, Objective(weights, head_positions=slice(1, None, 3)))
    assert model.heads.can_skip_positions

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
def test_heads_with_weight_zero_do_not_change_the_trunk_gradient(kind):
    text = tokens(2, 9)
    plain, model = build("none"), build(kind)
    accumulate_gradients(plain, text[:, :6])
    losses = accumulate_gradients(model, text, Objective(np.zeros(3)))
    for a, b in zip(model.trunk.parameters(), plain.parameters(), strict=True):
        assert np.array_equal(a.grad, b.grad)
    assert np.isnan(losses[1:]).all()


@pytest.mark.parametrize("kind", HEADS)
def test_heads_on_a_frozen_trunk_are_trained_and_the_trunk_keeps_its_bits(kind):
    model = build(kind, dtype=np.float32)
    freeze(model.trunk)
    before = [parameter.data.copy() for parameter in model.trunk.parameters()]
    optimizer = AdamW(flat := FlatParameters(model))
    text, first = tokens(4, 12), None
    for _ in range(20):
        flat.gradients[...] = 0
        losses = accumulate_gradients(model, text, Objective(np.ones(3)))
        first = losses if first is None else first
        optimizer.step(1e-2)
    assert losses[0] == first[0]
    assert (losses[1:] < first[1:]).all()
    assert all(
        np.array_equal(a, b.data) for a, b in zip(before, model.trunk.parameters(), strict=True)
    )


def test_evaluation_records_no_graph_and_returns_the_most_likely_tokens():
    model, text = build("token_conditioned"), tokens(2, 9)
    nats, predicted = evaluate_losses(model, text)
    assert nats.shape == predicted.shape == (2, 5, 4)
    with no_grad():
        logits = model.logits(model.hidden(text[:, :5])).data
    assert np.array_equal(predicted[..., 0], logits.argmax(-1))
    assert all(isinstance(p, Tensor) and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", ["text", "trunk", "teacher"])
def test_a_batch_in_several_parts_has_the_losses_and_gradients_of_the_whole_batch(
    kind, targets, monkeypatch
):
    text, weights, teacher = tokens(5, 9), np.array([0.5, 0.3, 0.2]), build(kind, seed=5)
    results = []
    for windows, logits in ((5, 1 << 26), (2, 1 << 26), (5, 4 * SHAPE.vocabulary_size)):
        monkeypatch.setattr("minimtp.model.loss._windows_at_once", lambda *_, count=windows: count)
        monkeypatch.setattr("minimtp.model.output_loss.LOGITS_IN_TRAINING", logits)
        model = build(kind)
        losses = accumulate_gradients(
            model,
            text,
            Objective(
                weights[: model.depth], head_targets=targets, teacher=teacher, distill_weight=0.4
            ),
            0.7,
        )
        results.append([losses, *(parameter.grad for parameter in model.parameters())])
    for whole, parts, chunks in zip(*results, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(chunks, whole, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", ["text", "trunk", "teacher"])
def test_heads_that_go_through_the_output_together_learn_what_they_learn_one_by_one(
    kind, targets, monkeypatch
):
    text, teacher = tokens(5, 9), build(kind, seed=5)
    for weights in (np.array([0.5, 0.3, 0.2]), np.array([0.5, 0.0, 0.2]), np.array([0.5, 0.3, 0])):
        results = []
        for rows in (1, 60, 10**6):  # one, two and all of the heads
            monkeypatch.setattr("minimtp.model.head_loss.ROWS_TOGETHER", rows)
            model = build(kind)
            losses = accumulate_gradients(
                model,
                text,
                Objective(weights[: model.depth], head_targets=targets, teacher=teacher),
            )
            gradients = [0.0 if p.grad is None else p.grad for p in model.parameters()]
            results.append([losses, *gradients])
        for alone, *together in zip(*results, strict=True):
            for each in together:
                np.testing.assert_allclose(each, alone, rtol=1e-10, atol=1e-13)


def test_a_frozen_output_gets_no_gradient_and_the_states_get_the_same_one():
    learning, constant, text = build(), build(), tokens(2, 9)
    constant.embedding.weight.requires_grad = False
    for model in (learning, constant):
        accumulate_gradients(model, text)
    assert constant.embedding.weight.grad is None and learning.embedding.weight.grad.any()
    for a, b in zip(learning.blocks[0].parameters(), constant.blocks[0].parameters(), strict=True):
        assert np.array_equal(a.grad, b.grad)


def test_the_logits_of_a_large_vocabulary_never_exist_all_at_once(monkeypatch):
    size, rows = 4096, 128
    shape = replace(SHAPE, vocabulary_size=size, context_length=rows, hidden_size=8)
    student, teacher = (Transformer(shape, np.random.default_rng(seed)) for seed in (0, 1))
    flat = FlatParameters(student)
    text = np.random.default_rng(2).integers(0, size, (1, rows + 1))

    def distill():
        accumulate_gradients(student, text, Objective(teacher=teacher, distill_weight=0.5))

    monkeypatch.setattr("minimtp.model.output_loss.LOGITS_IN_TRAINING", 8 * size)
    distill()  # compiles the kernels
    tracemalloc.start()
    distill()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * rows * size  # bytes of the logits of one of the models
    assert flat.gradients.any()
