"""Lesson 1: a graph of five nodes, and the gradients of broadcast inputs."""

import doctest
import re
from textwrap import dedent

import pytest

from lessons.lesson01_autograd.diagram import NAMES, numbers
from minimtp.backend import numpy as np
from minimtp.engine.broadcasting import undo_broadcasting
from tests.lessons.helpers import text
from tests.lessons.worked.reading import second_evening

IDEA = re.search(r"^## The idea$(.*?)^## ", text(1), re.MULTILINE | re.DOTALL)[1]


def loss(a, b):
    return (a * b + a) ** 2


def test_the_picture_shows_the_computation_of_the_text():
    assert numbers()["L"] == (loss(3, 4), 1.0)
    for formula in NAMES.values():
        assert formula in IDEA


@pytest.mark.parametrize(("node", "place"), [("a", 0), ("b", 1)])
def test_the_gradients_of_the_picture_are_difference_quotients(node, place):
    above, below = ([3.0, 4.0] for _ in range(2))
    above[place] += 1e-5
    below[place] -= 1e-5
    slope = (loss(*above) - loss(*below)) / 2e-5
    assert numbers()[node][1] == pytest.approx(slope, rel=1e-8)


def test_the_text_adds_up_the_gradients_of_the_picture():
    (a, a_bar), (b, b_bar), (_, c_bar), (d, d_bar) = (numbers()[name] for name in "abcd")
    assert f"15 · 1. Both factors are d, so d gets {d:g} + {d:g} = {d_bar:g}." in IDEA
    assert d_bar == d + d and c_bar == d_bar
    assert f"a gets b · {c_bar:g} = {b * c_bar:g}, and b gets a · {c_bar:g} = {b_bar:g}." in IDEA
    assert f"it gets {b * c_bar:g} + {d_bar:g} = {a_bar:g}." in IDEA
    assert b * c_bar + d_bar == a_bar and a * c_bar == b_bar


def test_a_small_step_confirms_the_gradient_of_a():
    moved, value = loss(3.001, 4), loss(3, 4)
    assert f"a = 3.001    L = {moved:.6f}    changed by {moved - value:.6f}" in IDEA
    assert f"a = 3        L = {value}\n" in IDEA
    assert f"about {numbers()['a'][1]:.0f} times" in IDEA
    assert round((moved - value) / 0.001) == numbers()["a"][1]


def test_the_lines_to_try_print_the_gradients_of_the_picture():
    (lines,) = re.findall(r"^    >>> .*\n(?:    .*\n)+", IDEA, re.MULTILINE)
    example = doctest.DocTestParser().get_doctest(dedent(lines), {}, "lines to try", None, 0)
    assert doctest.DocTestRunner().run(example).failed == 0
    assert lines.endswith(f"    {numbers()['a'][1]:.1f} {numbers()['b'][1]:.1f}\n")


def test_the_gradients_of_a_repeated_row_and_of_a_repeated_column():
    table = re.search(r"an input \(2,\).*\n((?:        .*\n)+)", second_evening(1))[1]
    numbers = [[float(number) for number in line.split()] for line in table.splitlines()]
    gradient = np.array([line[:2] for line in numbers])
    assert gradient.shape == (3, 2)
    assert numbers[0][2:4] == undo_broadcasting(gradient, (2,)).tolist()
    column = [[line[-1]] for line in numbers]
    assert column == undo_broadcasting(gradient, (3, 1)).tolist()
