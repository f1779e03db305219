"""The larger token-conditioned head: inputs of earlier layers, and a feed-forward part."""

from minimtp.backend import numpy as np
from minimtp.engine.gradcheck import check_gradients
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import Tensor
from minimtp.model.heads import LargerTokenConditionedHeads
from minimtp.model.transformer import Transformer
from tests.model.cases import SHAPE, tokens

DEPTH, LAYERS, INTERMEDIATE = 3, (2, 0), 20
OPTIONS = {"layers": LAYERS, "intermediate_size": INTERMEDIATE}
WIDTH = SHAPE.hidden_size


def heads_and_trunk():
    rng = np.random.default_rng(1)
    trunk = Transformer(SHAPE, rng)
    heads = LargerTokenConditionedHeads(DEPTH, SHAPE, rng, **OPTIONS)
    for part in (trunk, heads):
        map_parameters(part, lambda array: 0.5 * rng.standard_normal(array.shape))
    return heads, trunk


def inputs(batch=2, length=5):
    rng = np.random.default_rng(2)
    text = tokens(batch, length + DEPTH)
    following = np.stack([text[:, k : length + k] for k in range(1, DEPTH + 1)], axis=-1)
    return rng.standard_normal((batch, length, (1 + len(LAYERS)) * WIDTH)), following


def rms_norm(x, norm):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + SHAPE.norm_eps) * norm.weight.data


def states_by_definition(heads, hidden, following, trunk):
    head, parts = heads.head, np.split(hidden, 1 + len(LAYERS), axis=-1)
    normed = [rms_norm(part, norm) for part, norm in zip(parts[1:], heads.layer_norms, strict=True)]
    state = np.concatenate([parts[0], *normed], axis=-1) @ heads.fc.weight.data.T
    for token in np.moveaxis(following, -1, 0):
        token = rms_norm(trunk.embedding.weight.data[token], head.token_norm)
        joined = np.concatenate([rms_norm(state, head.state_norm), token], axis=-1)
        gate, candidate = np.split(joined @ head.gate_candidate.weight.data.T, 2, axis=-1)
        state = state + (candidate - state) / (1 + np.exp(-gate))
        gate_up = rms_norm(state, head.feed_forward_norm) @ head.feed_forward.gate_up.weight.data.T
        gate, up = np.split(gate_up, 2, axis=-1)
        inner = gate / (1 + np.exp(-gate)) * up
        state = state + inner @ head.feed_forward.down.weight.data.T
        yield rms_norm(state, head.norm)


def test_the_states_with_layers_and_a_feed_forward_part_follow_their_formulas():
    (heads, trunk), (hidden, following) = heads_and_trunk(), inputs()
    states = heads.states(Tensor(hidden), following, trunk)
    expected = states_by_definition(heads, hidden, following, trunk)
    for state, wanted in zip(states, expected, strict=True):
        np.testing.assert_allclose(state.data, wanted, rtol=1e-9, atol=1e-9)


def test_the_gradients_of_the_last_state_reach_every_input_and_parameter():
    (heads, trunk), (hidden, following) = heads_and_trunk(), inputs(1, 2)

    def last_state(hidden, *parameters):
        return list(heads.states(hidden, following, trunk))[-1]

    parameters = heads.parameters()
    check_gradients(last_state, [hidden], name="the state of the last head")
    last_state(Tensor(hidden)).backward(np.ones((1, 2, WIDTH)))
    assert all(np.abs(parameter.grad).max() > 0 for parameter in parameters)


def test_the_states_at_some_positions_are_those_positions_of_all_states():
    (heads, trunk), (hidden, following) = heads_and_trunk(), inputs()
    every = heads.states(Tensor(hidden), following, trunk)
    some = heads.states_at(slice(1, None, 2), Tensor(hidden), following, trunk)
    for one, other in zip(some, every, strict=True):
        np.testing.assert_allclose(one.data, other.data[:, 1::2], rtol=1e-12, atol=1e-12)


def test_new_options_start_almost_without_an_effect():
    """The feed-forward part starts at zero, and the layers' inputs with small weights."""
    _, trunk = heads_and_trunk()
    hidden, following = inputs()
    states = []
    for options in ({}, OPTIONS):
        heads = LargerTokenConditionedHeads(DEPTH, SHAPE, np.random.default_rng(5), **options)
        if not options:
            plain = heads
        heads.head.gate_candidate.weight.data = plain.head.gate_candidate.weight.data
        given = hidden if options else hidden[..., :WIDTH]
        states.append([state.data for state in heads.states(Tensor(given), following, trunk)])
    difference = np.abs(np.array(states[0]) - states[1]).max()
    assert 0 < difference < 0.5 * np.abs(states[0]).max()
