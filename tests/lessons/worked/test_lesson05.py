"""Lesson 5, by hand: what each head reads and predicts, two gates, and the output."""

import re

import pytest

from lessons.lesson05_heads.plot import draw_in_a_row
from lessons.lesson05_heads.predictions import correct_in_a_row
from minimtp.backend import numpy as np
from minimtp.engine.fused import GatedUpdate
from tests.lessons.helpers import text

PAGE = text(5)
SECTION = re.search(r"^## By hand$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]
(OUTPUT,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def rows(start):
    """Return the cells of the table rows that begin with this text."""
    found = [line for line in SECTION.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found]


def test_each_head_reads_the_token_that_the_one_before_it_predicts():
    windows = np.frombuffer(b"def main", np.uint8)[None]  # (1, T + 1 + K)
    depth, position = 3, 3
    length = windows.shape[1] - 1 - depth
    # As in training: the K tokens after each position, and the 1 + K targets.
    following = np.stack([windows[:, k : length + k] for k in range(1, depth + 1)], axis=-1)
    targets = np.stack([windows[:, 1 + k :][:, :length] for k in range(1 + depth)], axis=-1)
    assert position == length - 1  # the last position that has all targets
    (trunk,), heads = rows("trunk"), rows("head")
    assert f"`{chr(targets[0, position, 0])}`, token {position + 1}" == trunk[3]
    for k, (name, reads, parallel, predicts) in enumerate(heads, start=1):
        assert (name, parallel) == (f"head {k}", f"h_{position}")
        read, target = chr(following[0, position, k - 1]), chr(targets[0, position, k])
        assert f"`{read}`, token {position + k}" in reads
        assert f"`{target}`, token {position + 1 + k}" == predicts
    assert len(heads) == depth


def test_the_numbers_of_two_gates():
    found = rows("0 |") + rows("-4 |")
    assert len(found) == 2
    for gate, *cells in found:
        step = GatedUpdate()
        opened = 1 / (1 + np.exp(-float(gate)))
        state = step.forward(np.array([2.0]), np.array([float(gate), 4.0]))
        dstate, (dgate, dcandidate) = step.backward(np.array([1.0]))
        expected = [opened, state[0], dcandidate, dstate[0], dgate]
        assert cells == [f"{number:.3f}" for number in expected]
    kept = 1 - 1 / (1 + np.exp(4))
    assert f"{kept:.3f}^7 = {kept**7:.3f}" in SECTION


def test_the_sum_of_products_of_the_last_row_is_its_number_in_a_row():
    """The text multiplies the rounded shares of the output."""
    lines = [line for line in OUTPUT.splitlines() if line.startswith("token_conditioned, 8x")]
    shares = [int(share) / 100 for share in re.findall(r"(\d+)%", lines[1])]
    in_a_row = float(lines[1].split()[-1])
    products = np.cumprod(shares)
    assert abs(products.sum() - in_a_row) < 0.03  # shares are rounded to whole percents
    (formula,) = re.findall(r"^    0\.\d+ \+ .*$", SECTION, re.MULTILINE)
    terms, _, total = formula.strip().partition(" = ")
    first = [f"{share:.2f}" for share in shares[:3]]
    assert terms.startswith(
        f"{first[0]} + {first[0]} · {first[1]} + {first[0]} · {first[1]} · {first[2]} + ..."
    )
    assert total == f"{products[0]:.2f} + {products[1]:.2f} + {products[2]:.2f} + ... = {in_a_row}"


def shares(kind):
    """Return the percentages of both tables by column, and the last column of each."""
    first, second = (line for line in OUTPUT.splitlines() if line.startswith(f"{kind} "))
    return *([int(n) for n in re.findall(r"(\d+)%", line)] for line in (first, second)), (
        int(first.split()[-1].replace(",", "")),
        float(second.split()[-1]),
    )


def test_what_the_text_says_of_the_kinds_is_what_the_run_shows():
    prose = " ".join(PAGE.split())
    parallel, sequential, conditioned, longer, none = map(
        shares, ("parallel", "sequential", "token_conditioned", "token_conditioned, 8x", "no heads")
    )
    assert f"{sequential[2][1]:.2f} to {parallel[2][1]:.2f}" in prose
    assert sequential[2][1] > parallel[2][1]
    assert f"The token-conditioned head gets {conditioned[2][1]:.2f}" in prose
    assert round(sequential[2][0] / conditioned[2][0]) == 19  # "a nineteenth"
    assert max(sequential[0][1:]) - min(sequential[0][1:]) <= 2  # "stays the same"
    for kind in (conditioned, longer):  # "the second byte is the hardest"
        assert kind[0][1:5] == sorted(kind[0][1:5]) and min(kind[0][2:]) > kind[0][1]
    assert f"{100 * (sequential[2][0] / parallel[2][0] - 1):.0f} % more parameters" in prose
    assert parallel[0][1:5] == sorted(parallel[0][1:5], reverse=True)
    assert max(parallel[0][4:]) - min(parallel[0][4:]) <= 2
    assert f"is correct at {none[0][3]} % of all positions, but at {none[1][3]} % of" in prose
    assert f"{parallel[1][1]} % and {conditioned[1][1]} % in the second table" in prose
    assert parallel[1][1] > conditioned[1][1]
    assert all(conditioned[1][j] > parallel[1][j] for j in (2, 3))


def test_a_bar_of_the_plot_is_as_long_as_the_mean_number_of_predictions_in_a_row():
    figures = pytest.importorskip("matplotlib.figure", reason="plots need matplotlib")
    right = np.array([[[True, True, False], [True, False, True]]])  # 2 and 1 in a row
    axes = figures.Figure().subplots()
    draw_in_a_row(axes, {name: right for name in "abcde"})
    bars = [bar for bar in axes.patches if bar.get_y() < 0.5]  # of the first kind
    assert [bar.get_width() for bar in bars] == [1.0, 0.5, 0.0]
    assert correct_in_a_row(right) == 1.5 and "1.50" in {text.get_text() for text in axes.texts}
