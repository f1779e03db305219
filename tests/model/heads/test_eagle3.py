"""The EAGLE-3 head: its states against a definition that follows one chain at a time, its
gradients, and the trunk's states that it reads.
"""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.engine.fused import CausalAttention
from minimtp.engine.gradcheck import check_gradients
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import Tensor
from minimtp.model.heads import Eagle3Heads, MultiTokenModel
from minimtp.model.heads.unrolled_attention import Rotate, UnrolledAttention
from minimtp.model.loss import Objective, accumulate_gradients, evaluate_losses, following_tokens
from minimtp.model.transformer import Transformer
from tests.model.cases import SHAPE, tokens

LAYERS = (0, 1, SHAPE.num_layers)
WIDTH = (1 + len(LAYERS)) * SHAPE.hidden_size
VARIANTS = {
    "plain": {},
    "normed residual": {"norm_before_residual": True},
    "no norm before fc": {"norm_before_fc": False},
    "draft vocabulary": {"draft_vocabulary_size": 5},
    "own output": {"draft_vocabulary_size": 5, "own_output": True},
}


def model_with_eagle3(depth=3, kv_heads=SHAPE.num_kv_heads, layers=LAYERS, **options):
    """Return a model whose parameters are all random: zeros would hide mistakes."""
    rng = np.random.default_rng(1)
    config = dataclasses.replace(SHAPE, num_kv_heads=kv_heads)
    model = MultiTokenModel(
        Transformer(SHAPE, rng), Eagle3Heads(depth, config, rng, layers, **options)
    )
    map_parameters(model, lambda array: rng.standard_normal(array.shape) * 0.5)
    return model


def rms_norm(x, norm):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + SHAPE.norm_eps) * norm.weight.data


def turned(x, position, rotary):
    """x (heads, C), rotated to a position, as complex numbers."""
    pairs = x[..., 0::2] + 1j * x[..., 1::2]
    pairs = pairs * np.exp(1j * position * rotary.frequencies)
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape)


class Chain:
    """The head as decoding runs it: row by row, with keys and values of the rows before."""

    def __init__(self, heads, trunk):
        self.heads, self.block, self.trunk = heads, heads.block, trunk
        self.keys, self.values = [], []

    def start(self, features):
        """features (F D,) -> g (D,)."""
        if self.heads.fc_norm is not None:
            features = rms_norm(features, self.heads.fc_norm)
        return self.heads.fc.weight.data @ features

    def step(self, state, token):
        """state (D,), the token after it -> y (D,). Adds a row."""
        block, config, position = self.block, self.block.config, len(self.keys)
        normed = rms_norm(state, block.state_norm)
        embedded = rms_norm(self.trunk.embedding.weight.data[token], block.token_norm)
        rows = (block.qkv.weight.data @ np.concatenate([embedded, normed])).reshape(
            -1, config.head_dim
        )
        heads, kv_heads = config.num_heads, config.num_kv_heads
        queries = turned(rows[:heads], position, block.rotary)
        self.keys.append(turned(rows[heads : heads + kv_heads], position, block.rotary))
        self.values.append(rows[heads + kv_heads :])
        attended = []
        for head, query in enumerate(queries):
            group = head // (heads // kv_heads)
            scores = np.array([query @ key[group] for key in self.keys]) / config.head_dim**0.5
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            attended.append(sum(w * v[group] for w, v in zip(weights, self.values, strict=True)))
        residual = normed if block.norm_before_residual else state
        x = residual + block.attention_output.weight.data @ np.concatenate(attended)
        inner = block.feed_forward.gate_up.weight.data @ rms_norm(x, block.feed_forward_norm)
        gate, up = np.split(inner, 2)
        return x + block.feed_forward.down.weight.data @ (gate / (1 + np.exp(-gate)) * up)


def states_by_chains(model, hidden, following):
    """Return the states (K, B, T, D), each anchor followed on its own."""
    heads, size = model.heads, SHAPE.hidden_size
    batch, length, depth = following.shape
    result = np.empty((depth, batch, length, size))
    for b in range(batch):
        for anchor in range(length):
            chain = Chain(heads, model.trunk)
            for row in range(anchor + 1):
                state = chain.step(chain.start(hidden[b, row, size:]), following[b, row, 0])
            for k in range(depth):
                if k:
                    state = chain.step(state, following[b, anchor, k])
                result[k, b, anchor] = rms_norm(state, heads.norm)
    return result


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("kv_heads", sorted({1, SHAPE.num_kv_heads, SHAPE.num_heads}))
def test_every_anchor_has_the_states_of_a_chain_that_is_decoded_row_by_row(own, kv_heads, options):
    model, text = model_with_eagle3(kv_heads=kv_heads, **options), tokens(2, 6 + 3 + 1)
    following = following_tokens(text, 3)
    hidden = np.random.default_rng(2).standard_normal((2, 6, WIDTH))
    expected = states_by_chains(model, hidden, following)
    for k, state in enumerate(model.heads.states(Tensor(hidden), following, model.trunk)):
        np.testing.assert_allclose(state.data, expected[k], rtol=1e-9, atol=1e-9, err_msg=f"{k}")


@given(st.integers(1, 5), st.integers(0, 4))
def test_states_at_some_positions_are_those_among_all_positions(stride, first):
    model, text = model_with_eagle3(), tokens(2, 6 + 3 + 1)
    following = following_tokens(text, 3)
    hidden = Tensor(np.random.default_rng(2).standard_normal((2, 6, WIDTH)))
    some = slice(first, None, stride)
    parts = model.heads.states_at(some, hidden, following, model.trunk)
    for part, whole in zip(parts, model.heads.states(hidden, following, model.trunk), strict=True):
        np.testing.assert_allclose(part.data, whole.data[:, some], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_gradient_of_the_last_step_reaches_the_layers_of_the_trunk(own, options):
    model = model_with_eagle3(**options)
    hidden = np.random.default_rng(2).standard_normal((1, 4, WIDTH))
    following = following_tokens(tokens(1, 4 + 3 + 1), 3)

    def last_state(hidden):
        states = model.heads.states_at(slice(1, None, 2), hidden, following, model.trunk)
        return list(states)[-1]

    check_gradients(last_state, [hidden], name="the state of the last step")


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_backward_of_unrolled_attention_is_its_derivative(own, steps):
    rng = np.random.default_rng(0)
    anchors = np.array([0, 2, 4])
    inputs = [rng.standard_normal((2, 3, 4 * 2)), *rng.standard_normal((2, 2, 5, 2 * 2))]
    inputs += list(rng.standard_normal((2 * steps, 2, 3, 2 * 2)))

    def attend(*tensors):
        return own(UnrolledAttention)(4, 2, anchors).apply(*tensors)

    check_gradients(attend, inputs, name="unrolled attention")


def test_the_first_step_attends_as_the_trunk_does(own):
    """Without rows of its own, and with all positions as anchors, it is causal attention."""
    rng = np.random.default_rng(0)
    heads, kv_heads, head_dim, length = 4, 2, 6, 7
    qkv = rng.standard_normal((2, length, (heads + 2 * kv_heads) * head_dim))
    cosine, sine = rng.standard_normal((2, length, head_dim // 2))
    expected = CausalAttention(heads, kv_heads, cosine, sine).forward(qkv)
    queries, keys, values = np.split(
        qkv, [heads * head_dim, (heads + kv_heads) * head_dim], axis=-1
    )
    rotate = Rotate(cosine, sine).forward
    attention = own(UnrolledAttention)(heads, kv_heads, np.arange(length))
    found = attention.forward(rotate(queries), rotate(keys), values)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_the_trunks_states_hold_the_final_state_and_the_inputs_of_the_layers(own):
    model, text = model_with_eagle3(), tokens(2, 5)
    hidden = model.trunk_states(text).data
    size = SHAPE.hidden_size
    np.testing.assert_array_equal(hidden[..., :size], model.trunk.hidden(text).data)
    x = model.trunk.embedding(text)
    inputs = [x.data]
    for block in model.trunk.blocks:
        x = block(x)
        inputs.append(x.data)
    for place, layer in enumerate(LAYERS, start=1):
        part = hidden[..., place * size : (place + 1) * size]
        np.testing.assert_array_equal(part, inputs[layer], err_msg=f"layer {layer}")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_gradients_of_a_model_with_the_head_are_those_of_its_losses(own, name):
    """Finite differences of sum_k w_k L_k in one direction of all parameters."""
    model, text = model_with_eagle3(depth=2, **VARIANTS[name]), tokens(2, 5 + 2 + 1)
    weights, positions = np.array([0.7, 0.4]), slice(0, None, 2)

    def losses():
        return accumulate_gradients(model, text, Objective(weights, head_positions=positions))

    def loss():
        found = losses()
        return found[0] + weights @ found[1:]

    losses()
    gradients = [parameter.grad.copy() for parameter in model.parameters()]
    assert _slope(loss, model.parameters(), gradients) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_head_that_follows_the_trunk_learns_the_trunks_distribution_over_its_tokens(own, name):
    """The trunk's own output gives the targets, also for a head with an output of its own."""
    model, text = model_with_eagle3(depth=2, **VARIANTS[name]), tokens(2, 5 + 2 + 1)
    weights, length = np.array([0.7, 0.4]), 5

    def loss():
        hidden, vocabulary = model.trunk_states(text[:, :length]), model.heads.draft_vocabulary
        following = following_tokens(text, 2)
        total = 0.0
        for k, state in enumerate(model.heads.states(hidden, following, model.trunk), start=1):
            given = model.draft_logits(state).data
            targets = text[:, 1 + k : 1 + k + length]
            wanted = model.trunk.logits(Tensor(hidden.data[..., : SHAPE.hidden_size])).data
            inside = np.ones_like(targets, bool)
            if vocabulary is not None:
                wanted = wanted[..., vocabulary.ids.data]
                indices = vocabulary.indices_of(targets.reshape(-1)).reshape(targets.shape)
                inside, targets = indices >= 0, indices
            logits = given - _log_sum_exp(given)
            wanted = np.exp(wanted - _log_sum_exp(wanted))
            for b, i in np.ndindex(targets.shape):
                if not inside[b, i]:
                    continue
                if i + k < length:
                    share = -(wanted[b, i + k] * logits[b, i]).sum()
                else:  # beyond the window the text is the target
                    share = -logits[b, i, targets[b, i]]
                total += weights[k - 1] * share / targets.size
        return total

    accumulate_gradients(model, text, Objective(weights, head_targets="trunk", detached=True))
    parameters = model.heads.parameters()
    gradients = [parameter.grad.copy() for parameter in parameters]
    assert _slope(loss, parameters, gradients) == pytest.approx(1.0, rel=1e-5)


def _log_sum_exp(logits):
    return np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _slope(loss, parameters, gradients):
    """Return the measured over the predicted change of the loss in a random direction."""
    rng, step = np.random.default_rng(3), 1e-6
    directions = [rng.standard_normal(parameter.shape) for parameter in parameters]
    found = []
    for sign in (step, -2 * step):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data = parameter.data + sign * direction
        found.append(loss())
    pairs = zip(gradients, directions, strict=True)
    predicted = sum((gradient * direction).sum() for gradient, direction in pairs)
    return (found[0] - found[1]) / (2 * step) / predicted


def test_evaluation_reads_the_losses_of_trunk_and_heads(own):
    model, text = model_with_eagle3(depth=2), tokens(2, 5 + 2 + 1)
    nats, predicted = evaluate_losses(model, text)
    plain, _ = evaluate_losses(model.trunk, text[:, :-2])
    np.testing.assert_allclose(nats[..., 0], plain[..., 0], rtol=1e-12)
    assert nats.shape == predicted.shape == (2, 5, 3) and np.isfinite(nats).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_new_head_starts_where_the_layers_it_reads_would_end_the_trunk(own, name):
    """With nothing added by attention, its logits are the trunk's output after the layer c, up to
    a common factor of each position.
    """
    rng, layers = np.random.default_rng(4), (0, 1, SHAPE.num_layers)
    trunk = Transformer(SHAPE, rng)
    map_parameters(trunk, lambda array: rng.uniform(0.5, 1.5, array.shape))
    heads = Eagle3Heads(2, SHAPE, rng, layers, **VARIANTS[name])
    map_parameters(heads, lambda array: array.astype(np.float64))
    heads.start_from(trunk)
    model, text = MultiTokenModel(trunk, heads), tokens(2, 5 + 2 + 1)
    size, hidden = SHAPE.hidden_size, model.trunk_states(text[:, :5])
    heads.fc.weight.data[:, :-size] = 0.0
    heads.block.attention_output.weight.data[...] = 0.0
    if heads.block.norm_before_residual:
        heads.block.state_norm.weight.data[...] = 1.0
    state = next(heads.states(hidden, following_tokens(text, 2), trunk))
    found = model.draft_logits(state).data
    wanted = model.trunk_draft_logits(Tensor(hidden.data[..., :size])).data
    ratio = found / wanted
    np.testing.assert_allclose(ratio, ratio[..., :1] * np.ones_like(ratio), rtol=1e-4)
