"""The loss curve."""

import importlib.util
import sys

import pytest

from minimtp.training.run import plot
from minimtp.training.run.train import train
from tests.training.helpers import quiet, recipe_of


@pytest.mark.usefixtures("plots")
@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs the extra plots (matplotlib)"
)
@pytest.mark.parametrize(
    "changes", [{}, {"heads": "parallel", "draft_depth": 2, "curriculum": "forward"}], ids=str
)
def test_the_loss_curve_is_saved_in_the_folder_of_the_log(tmp_path, corpus, changes):
    train(recipe_of(**changes), corpus, tmp_path, report=quiet)
    assert (tmp_path / plot.FILE_NAME).read_bytes().startswith(b"\x89PNG")


def test_no_loss_curve_is_drawn_without_matplotlib(tmp_path, corpus, monkeypatch):
    train(recipe_of(), corpus, tmp_path, report=quiet)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plot.draw_losses(tmp_path) is None


def test_a_smoothed_curve_lies_within_its_values_and_starts_at_the_first():
    values = [3.0, 2.0, 2.5, 1.0]
    smooth = plot._smoothed(values)
    assert smooth[0] == pytest.approx(3.0)
    assert all(1.0 <= value <= 3.0 for value in smooth)
    assert plot._smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
