"""Lesson 2: one prediction, the loss of a text, the schedule, and one step of two optimizers."""

import math
import re

import pytest

from lessons.lesson02_training.recipe import recipe
from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.training.schedule import decay_start, learning_rate
from tests.lessons.helpers import text
from tests.lessons.worked.reading import by_hand, second_evening

SECTION = by_hand(2)
IDEA = " ".join(re.search(r"^## The idea$(.*?)^## ", text(2), re.M | re.S)[1].split())
SECOND_EVENING = " ".join(second_evening(2).split())
LOGITS = np.array([[3.0, 1.0, 0.0, 0.0]])


def row(name):
    """Return the numbers of a row of the table."""
    (cells,) = re.findall(rf"^\| {re.escape(name)}[^|]*\|(.*)\|$", SECTION, re.MULTILINE)
    return [float(cell) for cell in cells.split("|")]


def losses_and_gradients(target):
    targets = np.array([target])
    losses, log_sum_exp = plain.cross_entropy(LOGITS, targets)
    gradient = plain.cross_entropy_backward(LOGITS, targets, log_sum_exp, np.ones(1))
    return float(losses[0]), gradient[0]


def test_the_table_follows_from_its_logits():
    assert row("logit z") == LOGITS[0].tolist()
    assert row("exp z") == [round(x, 2) for x in np.exp(LOGITS[0]).tolist()]
    assert f"p = exp z / {np.exp(LOGITS).sum():.2f} |" in SECTION
    assert row("p = exp z") == (np.exp(LOGITS) / np.exp(LOGITS).sum())[0].round(3).tolist()
    assert row("target y") == [1, 0, 0, 0]
    assert row("gradient p - y") == losses_and_gradients(0)[1].round(3).tolist()


def test_the_losses_of_both_bytes_are_in_the_text():
    loss, gradient = losses_and_gradients(0)
    assert f"-log {math.exp(-loss):.3f} = {loss:.3f} nats" in SECTION
    assert f"or {loss / math.log(2):.3f} bits" in SECTION
    assert f"it would have been {losses_and_gradients(3)[0]:.3f} nats" in SECTION
    assert gradient.sum() == pytest.approx(0, abs=1e-15)


def test_the_loss_of_a_text_is_the_sum_of_the_losses_of_its_bytes():
    probabilities = [1 / 2, 1 / 4, 1 / 8]
    assert f"For 1/2, 1/4 and 1/8 it is 1/{1 / math.prod(probabilities):.0f}." in IDEA
    bits = [-math.log2(p) for p in probabilities]
    assert "The losses are {:.0f}, {:.0f} and {:.0f} bits".format(*bits) in IDEA
    assert sum(bits) == -math.log2(math.prod(probabilities))
    assert f"{sum(bits):.0f} bits, is -log2(1/64)" in IDEA


def test_the_untrained_model_gives_all_tokens_the_same_probability():
    assert f"log2(257) = {math.log2(257):.2f} bits" in text(2)


def test_the_first_and_the_last_rate_of_the_schedule_are_in_the_text():
    first, last = learning_rate(recipe, 0), learning_rate(recipe, recipe.steps - 1)
    assert recipe.learning_rate == 0.01 and recipe.final_learning_rate_factor == 0
    warm, decay = round(recipe.warmup_fraction * recipe.steps), recipe.steps - decay_start(recipe)
    assert f"S = {recipe.steps:,}, W = {warm} (2 %) and D = {decay} (40 %)" in SECTION
    assert first == pytest.approx(0.01 / (warm + 1)) and f"first has 0.01 / {warm + 1}" in SECTION
    assert last == pytest.approx(0.01 / decay) and f"last 0.01 / {decay}" in " ".join(
        SECTION.split()
    )


def test_clipping_and_the_first_steps_of_descent_and_of_adam():
    gradient = np.array([3.0, -4.0])
    norm = float(gradient @ gradient) ** 0.5
    clipped = gradient / norm
    assert f"norm {norm:.0f}" in SECOND_EVENING
    assert f"clipping gives {clipped[0]:g} {clipped[1]:g}" in SECOND_EVENING
    assert "gradient descent {:g} {:g}".format(*(-0.01 * clipped)) in SECOND_EVENING
    moved, first, second = np.zeros(2), np.zeros(2), np.zeros(2)
    plain.adamw(moved, gradient, first, second, 0.0, 0.01, 0.9, 0.95, 0.0, 0.0, 1, 1 / norm)
    assert "Adam {:g} {:g}".format(*moved.round(12)) in SECOND_EVENING
