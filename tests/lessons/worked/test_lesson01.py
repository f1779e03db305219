"""Lesson 1, by hand: a graph of five nodes, and the gradients of broadcast inputs."""

import re

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.broadcasting import undo_broadcasting
from minimtp.engine.ops import Add, Multiply
from minimtp.engine.tensor import Tensor
from tests.lessons.test_lessons import text

SECTION = re.search(r"^## By hand$(.*?)^## ", text(1), re.MULTILINE | re.DOTALL)[1]


def gradient_at(node, a=3.0, b=4.0):
    """Return (value, gradient of L) of a node, computed by the engine from this node on."""
    values = {"a": a, "b": b}
    values["c"] = values["a"] * values["b"]
    values["d"] = values["c"] + values["a"]
    tensors = {name: Tensor(value) for name, value in values.items()}
    if node == "L":
        return values["d"] ** 2, 1.0
    tensors[node].requires_grad = True
    if node in "ab":
        tensors["c"] = Multiply().apply(tensors["a"], tensors["b"])
    if node in "abc":
        tensors["d"] = Add().apply(tensors["c"], tensors["a"])
    Multiply().apply(tensors["d"], tensors["d"]).backward()
    return values[node], float(tensors[node].grad)


@pytest.mark.parametrize("node", "abcdL")
def test_the_table_shows_the_value_and_the_gradient_of_each_node(node):
    (row,) = re.findall(rf"^\| {node}(?: = [^|]*)? \| (\S+) \| (\S+) \|", SECTION, re.MULTILINE)
    assert tuple(map(float, row)) == gradient_at(node)


def test_a_small_step_confirms_the_gradient_of_a():
    def loss(a, b):
        return (a * b + a) ** 2

    moved, value = loss(3.001, 4), loss(3, 4)
    assert f"L = {moved:.6f}" in SECTION and f"changed by {moved - value:.6f}" in SECTION
    assert round((moved - value) / 0.001) == gradient_at("a")[1]
    assert f"about {gradient_at('a')[1]:.0f} times" in SECTION
    into_a = gradient_at("b")[0] * gradient_at("c")[1]
    assert f"b · 30 = {into_a:.0f} from c, and {gradient_at('d')[1]:.0f} from d" in SECTION


def test_the_gradients_of_a_repeated_row_and_of_a_repeated_column():
    table = re.search(r"an input \(2,\).*\n((?:        .*\n)+)", SECTION)[1]
    numbers = [[float(number) for number in line.split()] for line in table.splitlines()]
    gradient = np.array([line[:2] for line in numbers])
    assert gradient.shape == (3, 2)
    assert numbers[0][2:4] == undo_broadcasting(gradient, (2,)).tolist()
    column = [[line[-1]] for line in numbers]
    assert column == undo_broadcasting(gradient, (3, 1)).tolist()
