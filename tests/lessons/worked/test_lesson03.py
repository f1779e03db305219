"""Lesson 3, by hand: three tokens through attention, its softmax backwards, and a rotation."""

import re

import pytest

from lessons.lesson02_training.loop import context_for
from lessons.lesson03_transformer.example import DEGREES, TOKENS, K, Q, V
from lessons.lesson03_transformer.recipe import recipe
from minimtp.backend import numpy as np
from minimtp.kernels import plain
from tests.lessons.helpers import text
from tests.lessons.worked.reading import by_hand, row, second_evening

SECTION = by_hand(3)
WORDS = " ".join(SECTION.split())


def rows():
    """Return the rows of the table of tokens as lists of cells."""
    lines = [re.search(rf"^\| `{token}` \|.*\|$", SECTION, re.MULTILINE)[0] for token in TOKENS]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def vector(cell):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", cell)]


def test_the_table_of_three_tokens_is_computed_by_attention():
    scores = Q @ K.T / 2**0.5
    weights = plain.causal_softmax(scores[None].copy(), 1.0)[0]
    output = plain.cached_attention(Q[:, None], K.T[None, None], V[:, None], 0, 2**-0.5)[:, 0]
    np.testing.assert_allclose(weights @ V, output, rtol=1e-14)
    for t, cells in enumerate(rows()):
        assert vector(cells[1]) == Q[t].tolist()
        assert vector(cells[2]) == K[t].tolist() and vector(cells[3]) == V[t].tolist()
        assert vector(cells[4]) == scores[t, : t + 1].round(2).tolist()
        assert vector(cells[5]) == np.exp(scores[t, : t + 1]).round(2).tolist()
        assert vector(cells[6]) == weights[t, : t + 1].round(2).tolist()
        assert vector(cells[7]) == output[t].round(2).tolist()


def test_the_text_adds_up_the_output_of_the_last_token():
    weights = plain.causal_softmax((Q @ K.T)[None], 2**-0.5)[0, 2]
    terms = [f"{p:.2f} · ({v[0]:g}, {v[1]:g})" for p, v in zip(weights, V, strict=True)]
    assert " + ".join(terms) in WORDS
    first, second, exact = weights[0], weights[2], (weights @ V)[0]
    assert round(first, 2) + round(second, 2) == pytest.approx(0.83) and round(exact, 2) == 0.84
    assert "so this gives 0.84 and not 0.83" in WORDS


def test_the_texts_of_all_windows_give_equally_many_predictions():
    lengths = [context_for(seen, recipe) for seen in (8, 32, 64)]
    assert {n - seen + 1 for n, seen in zip(lengths, (8, 32, 64), strict=True)} == {121}
    shown = "{}, {} and {} bytes each give 121 predictions".format(*lengths)
    assert shown in " ".join(text(3).split())


def test_the_eight_bytes_before_the_prediction_are_those_of_the_first_example():
    opening = text(3).partition("## ")[0]
    (example,) = re.findall(r"^    (def .*\n    .*)\n", opening, re.MULTILINE)
    assert f"`{example[-8:]}`" in opening


def test_the_gradient_of_the_third_row_follows_the_formula():
    weights = plain.causal_softmax((Q @ K.T)[None], 2**-0.5)
    gradient = np.zeros((1, 3, 3))
    gradient[0, 2] = [1, 0, 0]
    received = plain.causal_softmax_backward(gradient, weights, 1.0)[0, 2]
    assert row(second_evening(3), "gradient of the scores of wid") == received.round(2).tolist()
    assert received.sum() == pytest.approx(0, abs=1e-15)


def test_rotated_by_their_positions_two_vectors_have_a_product_of_their_distance():
    def at(vector, position):
        angle = np.array([[position * np.pi / 3]])
        return plain.rotate(vector.reshape(1, 1, 1, 2), np.cos(angle), np.sin(angle)).ravel()

    section = second_evening(3)
    words = " ".join(section.split())
    query = key = np.array([1.0, 0.0])
    for position in (0, 1, 2, 3):
        shown = re.search(rf"^    position {position} +\(([^)]*)\)", section, re.MULTILINE)[1]
        assert vector(shown) == [abs(x) if x == 0 else x for x in at(key, position).round(2)]
    products = [at(query, m) @ at(key, n) for m, n in ((1, 0), (2, 1), (3, 2))]
    assert products == pytest.approx([0.5] * 3) and f"{DEGREES} degrees per position" in words
    assert "positions 1 and 0, 2 and 1, or 3 and 2 is 1/2" in words
    assert at(query, 3) @ at(key, 0) == pytest.approx(-1)
    assert "at positions 3 and 0, it is -1" in words
