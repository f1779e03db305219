"""The gated step and the states of the heads, acceptance of their drafts, and their schedule in
training.
"""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.engine.fused import GatedUpdate
from minimtp.engine.gradcheck import check_gradients
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import Tensor
from minimtp.model.heads.token_conditioned import TokenConditionedHeads
from minimtp.model.transformer import Transformer
from minimtp.training import schedule
from minimtp.training.evaluate import teacher_forced_acceptance
from minimtp.training.recipe import Recipe
from tests.helpers.strategies import recipes
from tests.model.cases import SHAPE, tokens


def test_the_gated_step_moves_a_state_as_far_as_its_gate_is_open(own):
    state, gate, candidate = np.full(4, 2.0), np.array([0.0, -4.0, 50.0, -50.0]), np.full(4, 4.0)
    result = own(GatedUpdate)().forward(state, np.concatenate([gate, candidate]))
    np.testing.assert_allclose(
        result,
        [3, 2 + 2 / (1 + np.exp(4)), 4, 2],
        rtol=1e-14,
        err_msg="state 2, gates 0, -4, 50, -50, candidate 4: see the table under By hand",
    )


def test_the_gated_step_of_a_batch_uses_the_first_half_as_gate_and_the_second_as_candidate(own):
    rng = np.random.default_rng(0)
    state, gate, candidate = rng.standard_normal((3, 2, 5, 4))
    result = own(GatedUpdate)().forward(state, np.concatenate([gate, candidate], axis=-1))
    np.testing.assert_allclose(
        result,
        state + (candidate - state) / (1 + np.exp(-gate)),
        rtol=1e-12,
        atol=1e-12,
        err_msg="the first half of gate_candidate is the gate, the second the candidate",
    )


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_the_backward_of_the_gated_step_is_its_derivative(own, shape):
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape), 2 * rng.standard_normal((*shape[:-1], 8))]
    check_gradients(
        lambda *tensors: own(GatedUpdate)().apply(*tensors),
        inputs,
        name="gated step, with input 0 = state and input 1 = gate_candidate (gates first)",
    )


def test_the_gated_step_of_float32_arrays_is_float32_in_both_directions(own):
    rng = np.random.default_rng(0)
    state, gradient = rng.standard_normal((2, 3, 4), np.float32)
    step = own(GatedUpdate)()
    result = step.forward(state, rng.standard_normal((3, 8), np.float32))
    for name, array in zip(
        ("new state", "gradient of the state", "gradient of gate_candidate"),
        (result, *step.backward(gradient)),
        strict=True,
    ):
        assert array.dtype == np.float32, f"the {name} is {array.dtype}: keep the inputs' float32"


def heads_and_trunk(make, depth):
    """Return heads and a trunk. All parameters are random, because ones would hide mistakes."""
    rng = np.random.default_rng(1)
    trunk, heads = Transformer(SHAPE, rng), make(depth, SHAPE, rng)
    for part in (trunk, heads):
        map_parameters(part, lambda array: rng.standard_normal(array.shape))
    return heads, trunk


def rms_norm(x, norm):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + SHAPE.norm_eps) * norm.weight.data


def states_by_definition(heads, hidden, following, trunk):
    """Compute the states of the token-conditioned heads from the formulas of `minimtp.model.heads`:
    s_k from s_{k-1} and the embedding of the k-th next token.
    """
    head, state, result = heads.head, hidden, []
    for token in np.moveaxis(following, -1, 0):
        embedding = trunk.embedding.weight.data[token]
        joined = np.concatenate(
            [rms_norm(state, head.state_norm), rms_norm(embedding, head.token_norm)], axis=-1
        )
        gate, candidate = np.split(joined @ head.gate_candidate.weight.data.T, 2, axis=-1)
        state = state + (candidate - state) / (1 + np.exp(-gate))
        result.append(rms_norm(state, head.norm))
    return result


@pytest.mark.parametrize("depth", [1, 4])
def test_the_states_of_the_heads_read_one_more_token_each(own, depth):
    heads, trunk = heads_and_trunk(own(TokenConditionedHeads), depth)
    text = tokens(2, 7 + depth)
    hidden = np.random.default_rng(2).standard_normal((2, 7, SHAPE.hidden_size))
    # Position i is followed by tokens i+1, i+2, ...
    following = np.stack([text[:, k : 7 + k] for k in range(1, depth + 1)], axis=-1)
    yielded = heads.states(Tensor(hidden), following, trunk)
    is_one, tensors = isinstance(yielded, Tensor), "1 tensor" if depth == 1 else f"{depth} tensors"
    assert not is_one, f"states must yield {tensors}, one per head, but it returned a tensor"
    states = list(yielded)
    count = len(states)
    assert count == depth, f"states must yield {tensors}, one per head, but it gave {count}"
    expected = states_by_definition(heads, hidden, following, trunk)
    for k, (state, wanted) in enumerate(zip(states, expected, strict=True), start=1):
        np.testing.assert_allclose(
            state.data, wanted, rtol=1e-9, atol=1e-9, err_msg=f"the state of head {k}"
        )


def test_the_states_pass_the_gradient_of_the_last_head_back_to_the_trunk(own):
    heads, trunk = heads_and_trunk(own(TokenConditionedHeads), 3)
    hidden = np.random.default_rng(2).standard_normal((1, 2, SHAPE.hidden_size))

    def last_state(hidden):
        return list(heads.states(hidden, tokens(1, 6).reshape(1, 2, 3), trunk))[-1]

    check_gradients(last_state, [hidden], name="the state of the last head")


def test_acceptance_on_four_positions_equals_a_hand_computed_value(own):
    # The model predicts 1 2 3 4. Its only head predicts the token after each: right, wrong, right.
    predicted = np.array([[[1, 2], [2, 0], [3, 4], [4, 7]]])
    assert own(teacher_forced_acceptance)(predicted) == [pytest.approx(2 / 3)]


@given(
    st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(1, 5)),
    st.integers(2, 3),
    st.integers(0, 2**32),
)
def test_teacher_forced_acceptance_equals_a_loop_over_positions(own, shape, tokens, seed):
    predicted = np.random.default_rng(seed).integers(0, tokens, shape)  # about half of them match
    windows, context_length, depth = predicted.shape[0], predicted.shape[1], predicted.shape[2] - 1
    for k, share in enumerate(own(teacher_forced_acceptance)(predicted), start=1):
        reached = accepted = 0
        for window in range(windows):
            for t in range(context_length - k):
                matches = [
                    predicted[window, t, j] == predicted[window, t + j, 0] for j in range(1, k + 1)
                ]
                reached += all(matches[:-1])
                accepted += all(matches)
        assert share == (pytest.approx(accepted / reached) if reached else None)
    assert len(own(teacher_forced_acceptance)(predicted)) == depth


def test_heads_deeper_than_the_windows_have_no_acceptance():
    assert teacher_forced_acceptance(np.zeros((1, 1, 4), int)) == [None] * 3


def recipe_of(curriculum, steps, depth=3, **settings):
    return Recipe(
        heads="parallel",
        draft_depth=depth,
        curriculum=curriculum,
        tokens=steps * 8 * 256,
        **settings,
    )


@pytest.mark.parametrize(
    ("curriculum", "expected"),
    [
        ("none", [3] * 8),
        ("forward", [0, 0, 1, 1, 2, 2, 3, 3]),
        ("reverse", [3, 3, 2, 2, 1, 1, 0, 0]),
    ],
)
def test_each_curriculum_activates_the_expected_heads_in_eight_steps(curriculum, expected):
    counts = [schedule.active_heads(recipe_of(curriculum, 8), step) for step in range(8)]
    assert counts == expected, f"{curriculum}: expected {expected}, got {counts}"


@given(recipes(heads="parallel", draft_depth=3), st.data())
def test_a_curriculum_adds_or_removes_heads_one_at_a_time_from_the_nearest_on(recipe, data):
    kind = data.draw(st.sampled_from(["forward", "reverse"]))
    recipe = dataclasses.replace(
        recipe, curriculum=kind, head_loss_weight=0.5, final_head_loss_weight=0.5
    )
    counts = [schedule.active_heads(recipe, step) for step in range(recipe.steps)]
    assert counts == sorted(counts, reverse=kind == "reverse")
    assert counts[0] == (0 if kind == "forward" else 3)
    if recipe.steps >= 4:
        assert set(counts) == {0, 1, 2, 3}
        assert max(counts.count(n) for n in range(4)) - min(counts.count(n) for n in range(4)) <= 1


def test_head_weights_of_a_five_step_run_equal_a_hand_computed_table():
    recipe = recipe_of(
        "forward", 5, depth=2, head_loss_weight=0.6, final_head_loss_weight=0.2, head_loss_decay=0.5
    )
    weights = [schedule.head_weights(recipe, step) for step in range(5)]
    # The total weight is 0.6, 0.5, 0.4, 0.3 and 0.2. The first head's share is 2/3 and the second
    # head's share is 1/3. A head that is not active yet gets 0.
    expected = [[0, 0], [0, 0], [0.4 * 2 / 3, 0], [0.3 * 2 / 3, 0], [0.2 * 2 / 3, 0.2 / 3]]
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_a_recipe_without_heads_has_no_head_weights():
    assert schedule.head_weights(Recipe(), 0) == []


@given(recipes(heads="parallel", draft_depth=3, curriculum="none"))
def test_head_weights_sum_to_the_head_loss_weight_and_decrease_by_the_decay(recipe):
    # If a run has only one step, the weight of the first step applies.
    totals = {recipe.steps - 1: recipe.final_head_loss_weight} | {0: recipe.head_loss_weight}
    for step, total in totals.items():
        weights = schedule.head_weights(recipe, step)
        assert sum(weights) == pytest.approx(total, abs=1e-12)
        assert weights[1] == pytest.approx(weights[0] * recipe.head_loss_decay)
        assert weights[2] == pytest.approx(weights[1] * recipe.head_loss_decay)


@given(recipes(heads="parallel", draft_depth=3, curriculum="forward"))
def test_a_head_keeps_its_weight_when_another_joins(recipe):
    recipe = dataclasses.replace(recipe, head_loss_weight=0.5, final_head_loss_weight=0.5)
    everyone = schedule.head_weights(dataclasses.replace(recipe, curriculum="none"), 0)
    for step in range(recipe.steps):
        count = schedule.active_heads(recipe, step)
        assert schedule.head_weights(recipe, step) == pytest.approx(
            everyone[:count] + [0.0] * (3 - count)
        )
