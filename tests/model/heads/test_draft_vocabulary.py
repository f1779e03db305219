"""The loss of a head that drafts only some of the tokens, and its gradient."""

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import Parameter, no_grad
from minimtp.model.config import ModelConfig
from minimtp.model.head_loss import covered_shares
from minimtp.model.heads import MultiTokenModel, TokenConditionedHeads
from minimtp.model.layers import Embedding, Linear
from minimtp.model.loss import Objective, accumulate_gradients, evaluate_losses
from minimtp.model.transformer import Transformer
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec

IDS = [1, 2, 5, 7, 8]
DEPTH, LENGTH = 3, 6
CONFIG = ModelConfig(
    vocabulary_size=11, context_length=8, num_layers=1, hidden_size=8, num_heads=2,
    num_kv_heads=1, intermediate_size=12,
)  # fmt: skip


def limited(seed=0, ids=IDS):
    rng = np.random.default_rng(seed)
    heads = TokenConditionedHeads(DEPTH, CONFIG, rng, len(ids))
    model = MultiTokenModel(Transformer(CONFIG, rng), heads)
    map_parameters(model, lambda array: array + 0.3 * rng.standard_normal(array.shape))
    heads.draft_vocabulary.ids.data = np.array(ids, np.int32)
    return model


def text_of(seed=3):
    return np.random.default_rng(seed).integers(0, 11, (2, LENGTH + 1 + DEPTH))


def expected_losses(model, text, targets):
    """Return L_1 .. L_K, computed from all logits: (of the text, of `targets`)."""
    with no_grad():
        hidden = model.trunk_states(text[:, :LENGTH])
        following = np.stack([text[:, k : LENGTH + k] for k in range(1, DEPTH + 1)], axis=-1)
        states = list(model.heads.states(hidden, following, model.trunk))
        trunk = np.exp(model.logits(hidden).data[..., IDS])  # (B, T, V')
        rows = [model.logits(state).data[..., IDS] for state in states]
    trunk /= trunk.sum(-1, keepdims=True)
    found, followed = [], []
    for k, logits in enumerate(rows, start=1):
        log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        tokens = text[:, 1 + k : 1 + k + LENGTH]
        one_hot = tokens[..., None] == np.array(IDS)  # (B, T, V'), zeros outside
        inside = one_hot.any(-1)
        found.append(-(one_hot * log_q).sum() / inside.sum())
        wanted = one_hot.astype(float)
        if targets == "trunk":
            wanted[:, :-k] = trunk[:, k:] * inside[:, :-k, None]
        followed.append(-(wanted * log_q).sum() / inside.size)
    return np.array(found), np.array(followed)


def test_the_parts_of_a_batch_add_up_however_unevenly_their_tokens_can_be_drafted():
    text, weights, rng = text_of(), np.array([0.5, 0.3, 0.2]), np.random.default_rng(6)
    text[0] = rng.choice(IDS, text.shape[1])
    text[1:] = rng.choice(np.setdiff1d(np.arange(text.max() + 1), IDS), text[1:].shape)
    whole = accumulate_gradients(limited(), text, Objective(weights))
    share = 1 / len(text)
    parts = sum(
        accumulate_gradients(limited(), text[i : i + 1], Objective(weights), share) * share
        for i in range(len(text))
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    means = np.nanmean(evaluate_losses(limited(), text)[0], axis=(0, 1))
    np.testing.assert_allclose(whole / covered_shares(limited(), text), means, rtol=1e-12)


@pytest.mark.parametrize("targets", ["text", "trunk"])
def test_the_gradient_of_the_heads_is_that_of_the_loss_over_the_draft_vocabulary(targets):
    model, text, weights = limited(), text_of(), np.array([0.5, 0.3, 0.2])
    flat = FlatParameters(model, apart=("heads",))
    losses = accumulate_gradients(
        model, text, Objective(weights, detached=True, head_targets=targets)
    )
    found = (losses / covered_shares(model, text))[1:]
    np.testing.assert_allclose(found, expected_losses(model, text, targets)[0], rtol=1e-12)
    heads = flat.groups[1]
    direction = np.zeros(flat.data.shape)
    direction[heads] = np.random.default_rng(5).standard_normal(flat.data[heads].shape)
    values = []
    for sign in (1, -1):
        flat.data += sign * 1e-6 * direction
        values.append(weights @ expected_losses(model, text, targets)[1])
        flat.data -= sign * 1e-6 * direction
    slope = (values[0] - values[1]) / 2e-6
    assert flat.gradients @ direction == pytest.approx(slope, rel=1e-5)


def test_attached_heads_give_the_output_the_gradient_of_the_rows_that_they_draft():
    model, text, weights = limited(), text_of(), np.array([0.5, 0.3, 0.2])
    flat = FlatParameters(model)
    accumulate_gradients(model, text, Objective(weights))
    direction = np.random.default_rng(5).standard_normal(flat.data.shape)
    values = []
    for sign in (1, -1):
        flat.data += sign * 1e-6 * direction
        text_loss = accumulate_gradients(limited_copy(model), text, Objective(np.zeros(DEPTH)))[0]
        values.append(text_loss + weights @ expected_losses(model, text, "text")[1])
        flat.data -= sign * 1e-6 * direction
    slope = (values[0] - values[1]) / 2e-6
    assert flat.gradients @ direction == pytest.approx(slope, rel=1e-5)


def limited_copy(model):
    copy = limited()
    for own, other in zip(copy.parameters(), model.parameters(), strict=True):
        own.data = other.data.copy()
    return copy


def test_heads_follow_a_teacher_that_drafts_every_token_over_their_own_tokens():
    model, teacher, text = limited(), limited(seed=4), text_of()
    teacher.heads.draft_vocabulary = None
    weights = np.array([1.0, 0.0, 0.0])
    options = {"detached": True, "head_targets": "teacher"}
    accumulate_gradients(model, text, Objective(weights, teacher=teacher, **options))
    gradients = [parameter.grad for parameter in model.heads.parameters()]
    same = limited(seed=4)  # a teacher with the same draft vocabulary
    again = limited()
    accumulate_gradients(again, text, Objective(weights, teacher=same, **options))
    for one, other in zip(gradients, again.heads.parameters(), strict=True):
        np.testing.assert_allclose(one, other.grad, rtol=1e-12, atol=1e-15)
    own = limited_copy(teacher)
    accumulate_gradients(own, text, Objective(weights, teacher=teacher, **options))
    assert max(np.abs(p.grad).max() for p in own.heads.parameters()) < 1e-15


def test_an_evaluation_names_tokens_and_has_no_loss_for_those_that_are_never_drafted():
    model, text = limited(), text_of()
    nats, predicted = evaluate_losses(model, text)
    assert set(predicted[..., 1:].reshape(-1).tolist()) <= set(IDS)
    for k in range(1, DEPTH + 1):
        inside = np.isin(text[:, 1 + k : 1 + k + LENGTH], IDS)
        assert np.array_equal(np.isnan(nats[..., k]), ~inside)
        found = nats[..., k][inside].mean()
        assert found == pytest.approx(expected_losses(model, text, "text")[0][k - 1], rel=1e-12)
    assert not np.isnan(nats[..., 0]).any()


def test_a_text_without_any_token_that_is_drafted_has_the_loss_zero_and_no_gradient():
    model = limited()
    losses = accumulate_gradients(
        model, np.zeros((1, 10), int), Objective(np.ones(DEPTH), detached=True)
    )
    assert losses[1:].tolist() == [0.0] * DEPTH
    assert all(not parameter.grad.any() for parameter in model.heads.parameters())


@pytest.mark.parametrize("make", [Linear, Embedding], ids=["linear", "table"])
@pytest.mark.parametrize("form", ["float", "fake-quantized", "packed"])
@pytest.mark.parametrize("grid", ["q4_0", "q8_0"])
def test_the_product_with_some_rows_is_that_part_of_the_product_with_all(make, form, grid):
    rng, rows = np.random.default_rng(0), np.array([0, 3, 4, 30])
    module = make(64, 64, rng)
    if form != "float":
        module = prepare_qat(module, QuantizationSpec(weights=grid, embedding=grid))
    if form == "packed":
        module = convert(module)
    x = Parameter(rng.standard_normal((2, 3, 64)).astype(np.float32))
    every = module.logits(x) if make is Embedding else module(x)
    some = module.matmul_rows(x, rows)
    np.testing.assert_allclose(some.data, every.data[..., rows], rtol=1e-5, atol=1e-5)
    if form == "packed":
        return
    slopes = rng.standard_normal(some.shape).astype(np.float32)
    whole = np.zeros(every.shape, np.float32)
    whole[..., rows] = slopes
    gradients = []
    for product, gradient in ((every, whole), (some, slopes)):
        x.grad = module.weight.grad = None
        product.backward(gradient)
        gradients.append((x.grad, module.weight.grad))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
