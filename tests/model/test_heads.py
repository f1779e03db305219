"""Training schedule of the prediction heads, and acceptance of their drafts."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np
from minimtp.training import schedule
from minimtp.training.evaluate import teacher_forced_acceptance
from minimtp.training.recipe import Recipe
from tests.strategies import recipes


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
def test_each_curriculum_activates_the_expected_heads_in_eight_steps(own, curriculum, expected):
    counts = [own(schedule.active_heads)(recipe_of(curriculum, 8), step) for step in range(8)]
    assert counts == expected, f"{curriculum}: expected {expected}, got {counts}"


@given(recipes(heads="parallel", draft_depth=3), st.data())
def test_a_curriculum_adds_or_removes_heads_one_at_a_time_from_the_nearest_on(own, recipe, data):
    kind = data.draw(st.sampled_from(["forward", "reverse"]))
    recipe = dataclasses.replace(
        recipe, curriculum=kind, head_loss_weight=0.5, final_head_loss_weight=0.5
    )
    counts = [own(schedule.active_heads)(recipe, step) for step in range(recipe.steps)]
    assert counts == sorted(counts, reverse=kind == "reverse")
    assert counts[0] == (0 if kind == "forward" else 3)
    if recipe.steps >= 4:
        assert set(counts) == {0, 1, 2, 3}
        assert max(counts.count(n) for n in range(4)) - min(counts.count(n) for n in range(4)) <= 1


def test_head_weights_of_a_five_step_run_equal_a_hand_computed_table(own):
    recipe = recipe_of(
        "forward", 5, depth=2, head_loss_weight=0.6, final_head_loss_weight=0.2, head_loss_decay=0.5
    )
    weights = [own(schedule.head_weights)(recipe, step) for step in range(5)]
    # The total weight is 0.6, 0.5, 0.4, 0.3 and 0.2. The first head's share is 2/3 and the second
    # head's share is 1/3. A head that is not active yet gets 0.
    expected = [[0, 0], [0, 0], [0.4 * 2 / 3, 0], [0.3 * 2 / 3, 0], [0.2 * 2 / 3, 0.2 / 3]]
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_a_recipe_without_heads_has_no_head_weights(own):
    assert own(schedule.head_weights)(Recipe(), 0) == []


@given(recipes(heads="parallel", draft_depth=3, curriculum="none"))
def test_head_weights_sum_to_the_head_loss_weight_and_decrease_by_the_decay(own, recipe):
    # If a run has only one step, the weight of the first step applies.
    totals = {recipe.steps - 1: recipe.final_head_loss_weight} | {0: recipe.head_loss_weight}
    for step, total in totals.items():
        weights = own(schedule.head_weights)(recipe, step)
        assert sum(weights) == pytest.approx(total, abs=1e-12)
        assert weights[1] == pytest.approx(weights[0] * recipe.head_loss_decay)
        assert weights[2] == pytest.approx(weights[1] * recipe.head_loss_decay)


@given(recipes(heads="parallel", draft_depth=3, curriculum="forward"))
def test_a_head_keeps_its_weight_when_another_joins(own, recipe):
    recipe = dataclasses.replace(recipe, head_loss_weight=0.5, final_head_loss_weight=0.5)
    everyone = own(schedule.head_weights)(dataclasses.replace(recipe, curriculum="none"), 0)
    for step in range(recipe.steps):
        count = schedule.active_heads(recipe, step)
        assert own(schedule.head_weights)(recipe, step) == pytest.approx(
            everyone[:count] + [0.0] * (3 - count)
        )


def test_acceptance_on_four_positions_equals_a_hand_computed_value(own):
    # The model predicts 1 2 3 4. Its only head predicts the token after each: right, wrong, right.
    predicted = np.array([[[1, 2], [2, 0], [3, 4], [4, 7]]])
    assert own(teacher_forced_acceptance)(predicted) == [pytest.approx(2 / 3)]


@given(
    arrays.arrays(
        np.int64,
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5)),
        elements=st.integers(0, 1),
    )
)
def test_teacher_forced_acceptance_equals_a_loop_over_positions(own, predicted):
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
