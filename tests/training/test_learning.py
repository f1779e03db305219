"""The arithmetic of learning: the gradient of the loss, the learning rate, and AdamW."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.training import schedule
from minimtp.training.recipe import Recipe
from tests.helpers.strategies import recipes


def test_the_gradient_of_cross_entropy_is_the_probabilities_minus_one_hot_targets(own):
    logits, targets, incoming = (
        np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]),
        np.array([1, 2]),
        np.array([1.0, 10.0]),
    )
    log_sum_exp = plain.cross_entropy(logits, targets)[1]
    received = own(plain.cross_entropy_backward)(logits, targets, log_sum_exp, incoming)
    np.testing.assert_allclose(received, [[0.5, -0.75, 0.25], [1.0, 2.0, -3.0]], rtol=0, atol=1e-14)


def test_the_gradient_of_cross_entropy_is_zero_for_an_ignored_target(own):
    logits, targets, incoming = np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([-1, 0]), np.ones(2)
    received = own(plain.cross_entropy_backward)(
        logits, targets, plain.cross_entropy(logits, targets)[1], incoming
    )
    assert not received[0].any(), (
        f"the row with target -1 must have a zero gradient, not {received[0]}"
    )
    assert received[1].any()
    assert targets.tolist() == [-1, 0] and incoming.tolist() == [1, 1], "an argument has changed"


def test_the_gradient_of_cross_entropy_does_not_overflow_or_change_its_arguments(own):
    arguments = np.array([[800.0, 799.0]]), np.array([1]), np.array([800 + np.log1p(np.exp(-1))])
    copies = [argument.copy() for argument in (*arguments, np.ones(1))]
    with np.errstate(over="raise", invalid="raise"):
        received = own(plain.cross_entropy_backward)(*copies)
    p = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(received, [[p, -p]], rtol=1e-12)
    for argument, copy in zip((*arguments, np.ones(1)), copies, strict=True):
        np.testing.assert_array_equal(copy, argument)


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(2, 9))
def test_the_gradient_of_cross_entropy_equals_a_difference_quotient(own, seed, rows, vocabulary):
    random = np.random.default_rng(seed)
    logits, direction = 3 * random.standard_normal((2, rows, vocabulary))
    targets, incoming = random.integers(0, vocabulary, rows), random.standard_normal(rows)
    above, below = (
        plain.cross_entropy(logits + step * direction, targets)[0] @ incoming
        for step in (1e-6, -1e-6)
    )
    received = own(plain.cross_entropy_backward)(
        logits, targets, plain.cross_entropy(logits, targets)[1], incoming
    )
    expected, predicted = (above - below) / 2e-6, float((received * direction).sum())
    assert predicted == pytest.approx(expected, rel=1e-6, abs=1e-7), (
        f"the change of the loss in a random direction: expected {expected}, got {predicted}"
    )


def test_the_learning_rates_of_a_small_run_equal_values_computed_by_hand(own):
    recipe = Recipe(
        tokens=10 * 8 * 256,
        learning_rate=1.0,
        warmup_fraction=0.17,  # 1.7 steps, rounded to 2
        decay_fraction=0.4,
        final_learning_rate_factor=0.2,
    )
    for step, expected in enumerate([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4]):
        rate = own(schedule.learning_rate)(recipe, step)
        assert rate == pytest.approx(expected, abs=1e-12), (
            f"S = 10, W = 2, D = 4, peak 1, factor 0.2, step {step}: "
            f"expected {expected:.4g}, got {rate}"
        )


@given(recipes())
def test_the_learning_rate_rises_holds_and_falls_without_ever_being_zero(own, recipe):
    rates = [own(schedule.learning_rate)(recipe, step) for step in range(recipe.steps)]
    peak, start = recipe.learning_rate, schedule.decay_start(recipe)
    warm = round(recipe.warmup_fraction * recipe.steps)
    for step, rate in enumerate(rates):
        highest = peak * (1 + 1e-12)
        assert 0 < rate <= highest, f"step {step}: expected above 0 and at most {peak}, got {rate}"
    for step in range(1, warm):
        assert rates[step - 1] <= rates[step], f"the rate falls at step {step} of the warm-up"
    for step in range(warm, min(start + 1, recipe.steps)):
        assert rates[step] == pytest.approx(peak, rel=1e-12), (
            f"step {step}, after the warm-up and before the decay: expected {peak}, "
            f"got {rates[step]}"
        )
    for step in range(start + 2, recipe.steps):
        assert rates[step - 1] >= rates[step], f"the rate rises at step {step} of the decay"
    lowest = peak * recipe.final_learning_rate_factor
    for step in range(start, recipe.steps):
        assert rates[step] >= lowest * (1 - 1e-12), (
            f"step {step}: expected at least {lowest}, got {rates[step]}"
        )


def adamw(own, values, gradients, steps, decay_mask=0.0, **settings):
    """Return the values and the moments after some steps with the same gradients."""
    settings = {"eps": 0.0, "weight_decay": 0.0, "gradient_scale": 1.0} | settings
    p, g = np.array(values, float), np.array(gradients, float)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for step in range(1, steps + 1):
        own(plain.adamw)(
            p, g, m, v, decay_mask, step=step, learning_rate=0.1, beta1=0.9, beta2=0.99, **settings
        )
    return p, m, v


def test_with_constant_gradients_adamw_steps_are_equally_large_for_any_gradient(own):
    # With constant gradients and bias-corrected moments, m / sqrt(v) is the sign of the gradient.
    p, _, _ = adamw(own, [1.0, 1.0, 1.0], [1e-6, -1.0, 1e6], steps=5)
    np.testing.assert_allclose(p, [0.5, 1.5, 0.5], rtol=0, atol=1e-12)


def test_adamw_stores_running_means_of_the_gradient_and_of_its_square(own):
    _, m, v = adamw(own, [0.0], [2.0], steps=3)
    for found, expected, what in (
        (m, 2 * (1 - 0.9**3), "first, the running mean of the gradient"),
        (v, 4 * (1 - 0.99**3), "second, the running mean of its square"),
    ):
        np.testing.assert_allclose(
            found, expected, rtol=1e-12, err_msg=f"{what}, must be changed in place"
        )


def test_adamw_adds_eps_outside_the_square_root(own):
    # The corrected means are 2 and 4, so the step is 0.1 * 2 / (2 + 3), not 0.1 * 2 / sqrt(4 + 3).
    p, _, _ = adamw(own, [1.0], [2.0], steps=1, eps=3.0)
    np.testing.assert_allclose(p, [1 - 0.1 * 2 / 5], rtol=1e-12)


def test_adamw_decays_masked_parameters_in_proportion_to_their_values(own):
    p, _, _ = adamw(
        own,
        [10.0, 10.0],
        [0.0, 0.0],
        steps=1,
        decay_mask=np.array([1.0, 0.0]),
        weight_decay=0.3,
        eps=1e-8,
    )
    np.testing.assert_allclose(p, [10 - 0.1 * 0.3 * 10, 10], rtol=1e-12)


def test_adamw_decays_the_old_value_not_the_one_that_the_step_has_changed(own):
    # The gradient moves 10 to 9.9. The decay is 0.1 * 0.3 * 10, not 0.1 * 0.3 * 9.9.
    p, _, _ = adamw(own, [10.0], [2.0], steps=1, decay_mask=1.0, weight_decay=0.3)
    np.testing.assert_allclose(p, [10 - 0.1 - 0.1 * 0.3 * 10], rtol=1e-12)


def test_adamw_scales_the_gradient_without_changing_its_array(own):
    gradients = np.array([4.0])
    p, m, v = np.zeros(1), np.zeros(1), np.zeros(1)
    own(plain.adamw)(p, gradients, m, v, 0.0, 0.1, 0.9, 0.99, 0.0, 0.0, 1, 0.25)
    assert gradients[0] == 4.0
    np.testing.assert_allclose([m[0], v[0]], [0.1, 0.01], rtol=1e-12)
