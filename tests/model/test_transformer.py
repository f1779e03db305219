"""The trunk and the heads: causality, learning, and agreement with PyTorch."""

import importlib.util

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.optim import AdamW
from minimtp.model.heads import HEADS
from minimtp.model.loss import Objective, accumulate_gradients
from minimtp.model.rotary import Rotary
from tests.model.cases import FAMILIES, SHAPE, build, tokens, torch_transformer, total_loss


@pytest.mark.parametrize("tied", [True, False])
def test_changing_a_token_changes_no_earlier_logit_and_some_later_one(tied):
    model, text = build(tied=tied), tokens(1, 10)
    changed = text.copy()
    changed[0, 6] = (changed[0, 6] + 1) % SHAPE.vocabulary_size
    a, b = (model.logits(model.hidden(t)).data for t in (text, changed))
    assert np.array_equal(a[0, :6], b[0, :6])
    assert not np.allclose(a[0, 6:], b[0, 6:])


@pytest.mark.parametrize("kind", HEADS)
def test_head_k_does_not_depend_on_tokens_after_the_k_th_next_token(kind):
    model, text, depth, changed_at = build(kind), tokens(1, 12), 3, 7
    changed = text.copy()
    changed[0, changed_at] = (changed[0, changed_at] + 1) % SHAPE.vocabulary_size
    length = 12 - depth

    def states(t):
        following = np.stack([t[:, k : length + k] for k in range(1, depth + 1)], axis=-1)
        return [
            state.data
            for state in model.heads.states(
                model.trunk_states(t[:, :length]), following, model.trunk
            )
        ]

    all_states = states(text), states(changed)
    for k, (a, b) in enumerate(zip(*all_states, strict=True), start=1):
        # Row i depends on tokens up to i in parallel heads, and up to i + k in the others.
        first_affected = changed_at - (0 if kind == "parallel" else k)
        assert np.array_equal(a[0, :first_affected], b[0, :first_affected])
        assert not np.allclose(a[0, first_affected:], b[0, first_affected:])


def test_attention_scores_depend_on_distance_and_not_on_position():
    rotary = Rotary(8, 10000.0)
    cosine, sine = rotary.tables(12, np.zeros(1))
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 8))

    def rotate(x, position):
        pairs = x.reshape(-1, 2)
        c, s = cosine[position], sine[position]
        return np.stack(
            [pairs[:, 0] * c - pairs[:, 1] * s, pairs[:, 0] * s + pairs[:, 1] * c], axis=1
        ).ravel()

    near = rotate(q, 3) @ rotate(k, 1)
    assert near == pytest.approx(rotate(q, 11) @ rotate(k, 9), abs=1e-12)


@pytest.mark.parametrize("kind", HEADS)
def test_a_model_with_heads_predicts_the_next_token_exactly_as_its_trunk_does(kind):
    model, text = build(kind), tokens(2, 9)
    assert np.array_equal(
        model.logits(model.hidden(text)).data, model.trunk.logits(model.trunk.hidden(text)).data
    )
    plain = build("none")
    names = [name for name, _ in model.trunk.named_parameters()]
    assert names == [name for name, _ in plain.named_parameters()]


def test_a_small_model_can_memorize_a_batch_of_sequences():
    model = build("token_conditioned", dtype=np.float32)
    optimizer = AdamW(flat := FlatParameters(model), weight_decay=0.0)
    text = tokens(2, 14)
    for _ in range(150):
        flat.gradients[...] = 0
        losses = accumulate_gradients(model, text, Objective(np.full(3, 0.3)))
        optimizer.step(5e-3, clip=1.0)
    assert losses.max() < 0.1


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch, the reference, is not installed"
)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_losses_and_gradients_equal_pytorchs_on_the_same_weights(dtype, tolerance, family):
    import torch

    model, text = build(dtype=np.dtype(dtype), family=family), tokens(3, 13)
    losses = accumulate_gradients(model, text)
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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradients_of_every_family_equal_finite_differences(family):
    model, text, step = build(family=family), tokens(2, 9), 1e-6
    accumulate_gradients(model, text)
    rng = np.random.default_rng(3)
    for name, parameter in model.named_parameters():
        direction, start = rng.standard_normal(parameter.shape), parameter.data
        losses = []
        for sign in (1, -1):
            parameter.data = start + sign * step * direction
            losses.append(total_loss(model, text, np.zeros(0)))
        parameter.data = start
        slope = (losses[0] - losses[1]) / (2 * step)
        assert slope == pytest.approx((parameter.grad * direction).sum(), rel=1e-5, abs=1e-9), name
