"""Lesson 3, by hand: three tokens through attention, its softmax backwards, and a rotation."""

import re

import pytest

from lessons.lesson03_transformer.example import DEGREES, K, Q, V
from minimtp.backend import numpy as np
from minimtp.kernels import plain
from tests.lessons.helpers import text

SECTION = re.search(r"^## By hand$(.*?)^## ", text(3), re.MULTILINE | re.DOTALL)[1]
WORDS = " ".join(SECTION.split())


def rows():
    """Return the rows of the table of tokens as lists of cells."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| [123] \|.*\|$", SECTION, re.MULTILINE)
    ]


def vector(cell):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", cell)]


def test_the_table_of_three_tokens_is_computed_by_attention():
    scores = Q @ K.T / 2**0.5
    weights = plain.causal_softmax(scores[None].copy(), 1.0)[0]
    output = plain.cached_attention(Q[:, None], K.T[None], V[:, None], 0, 2**-0.5)[:, 0]
    np.testing.assert_allclose(weights @ V, output, rtol=1e-14)
    for t, cells in enumerate(rows()):
        assert vector(cells[1]) == scores[t, : t + 1].round(2).tolist()
        assert vector(cells[2]) == np.exp(scores[t, : t + 1]).round(2).tolist()
        assert vector(cells[3]) == weights[t, : t + 1].round(2).tolist()
        assert vector(cells[4]) == output[t].round(2).tolist()
    assert t == 2


def test_the_gradient_of_the_third_row_follows_the_formula():
    weights = plain.causal_softmax((Q @ K.T)[None], 2**-0.5)
    gradient = np.zeros((1, 3, 3))
    gradient[0, 2] = [1, 0, 0]
    received = plain.causal_softmax_backward(gradient, weights, 1.0)[0, 2]
    shown = re.search(r"the gradient of the three scores is \(([^)]*)\)", WORDS)[1]
    assert vector(shown) == received.round(2).tolist()
    assert received.sum() == pytest.approx(0, abs=1e-15)


def test_rotated_by_their_positions_two_vectors_have_a_product_of_their_distance():
    def at(vector, position):
        angle = np.array([[position * np.pi / 3]])
        return plain.rotate(vector.reshape(1, 1, 1, 2), np.cos(angle), np.sin(angle)).ravel()

    query = key = np.array([1.0, 0.0])
    for position in (0, 1, 2, 3):
        shown = re.search(rf"^    position {position} +\(([^)]*)\)", SECTION, re.MULTILINE)[1]
        assert vector(shown) == [abs(x) if x == 0 else x for x in at(key, position).round(2)]
    products = [at(query, m) @ at(key, n) for m, n in ((1, 0), (2, 1), (3, 2))]
    assert products == pytest.approx([0.5] * 3) and f"{DEGREES} degrees per position" in WORDS
    assert "positions 1 and 0, 2 and 1, or 3 and 2 is 0.5" in WORDS
    assert (
        at(query, 3) @ at(key, 0) == pytest.approx(-1) and "at positions 3 and 0, it is -1" in WORDS
    )
