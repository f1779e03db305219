"""Lesson 2, by hand: one prediction, the loss of a text, and one step of two optimizers."""

import math
import re

import pytest

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from tests.lessons.helpers import text

SECTION = re.search(r"^## By hand$(.*?)^## ", text(2), re.MULTILINE | re.DOTALL)[1]
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
    assert row("p = exp z") == plain.softmax_rows(LOGITS.copy())[0].round(3).tolist()
    assert row("target y") == [1, 0, 0, 0]
    assert row("gradient p - y") == losses_and_gradients(0)[1].round(3).tolist()


def test_the_losses_of_both_bytes_are_in_the_text():
    loss, gradient = losses_and_gradients(0)
    assert f"-log {math.exp(-loss):.3f} = {loss:.3f} nats" in SECTION
    assert f"or {loss / math.log(2):.3f} bits" in SECTION
    assert f"it would have been {losses_and_gradients(3)[0]:.3f} nats" in SECTION
    assert gradient.sum() == pytest.approx(0, abs=1e-15) and "It sums to zero." in SECTION


def test_the_loss_of_a_text_is_the_sum_of_the_losses_of_its_bytes():
    probabilities = [1 / 2, 1 / 4, 1 / 8]
    assert f"the text has probability 1/{1 / math.prod(probabilities):.0f}." in SECTION
    bits = [-math.log2(p) for p in probabilities]
    assert "The losses are {:.0f}, {:.0f} and {:.0f} bits".format(*bits) in SECTION
    assert sum(bits) == -math.log2(math.prod(probabilities))
    assert f"{sum(bits):.0f} bits, is -log2(1/64)" in SECTION
    assert f"their mean is {sum(bits) / 3:.0f} bits per byte" in SECTION


def test_clipping_and_the_first_steps_of_descent_and_of_adam():
    gradient = np.array([3.0, -4.0])
    norm = float(gradient @ gradient) ** 0.5
    clipped = gradient / norm
    assert f"The norm is {norm:.0f}" in SECTION
    assert f"gives {clipped[0]:g} and {clipped[1]:g}." in SECTION
    assert "by {:g} and {:g}.".format(*(-0.01 * clipped)) in " ".join(SECTION.split())
    moved, first, second = np.zeros(2), np.zeros(2), np.zeros(2)
    plain.adamw(moved, gradient, first, second, 0.0, 0.01, 0.9, 0.95, 0.0, 0.0, 1, 1 / norm)
    assert "Adam moves them by {:g} and {:g}:".format(*moved.round(12)) in SECTION
