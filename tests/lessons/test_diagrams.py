"""The figures of the lessons can be read: no label is smaller than 8 points."""

import importlib
import re

import pytest

from tests.lessons.test_lessons import LESSONS, ROOT

MIN_POINTS = 8
SIZES = re.compile(r"(?:fontsize|labelsize|\"size\")\W{1,3}(\d+(?:\.\d+)?)\b")


@pytest.mark.parametrize(
    "path", sorted(LESSONS.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_no_label_is_smaller_than_eight_points(path):
    sizes = [float(size) for size in SIZES.findall(path.read_text(encoding="utf-8"))]
    assert all(size >= MIN_POINTS for size in sizes), f"{path.relative_to(ROOT)}: {sizes}"


@pytest.mark.parametrize(
    "folder", sorted(path.parent.name for path in LESSONS.glob("*/diagram.py"))
)
def test_a_diagram_can_be_drawn_and_its_labels_are_readable(folder):
    figures = pytest.importorskip("matplotlib.figure", reason="plots need matplotlib")
    text = pytest.importorskip("matplotlib.text")
    diagram = importlib.import_module(f"lessons.{folder}.diagram")
    figure = figures.Figure((11, 5))
    diagram.draw(figure)
    labels = [label for label in figure.findobj(text.Text) if label.get_text()]
    assert len(labels) > 15 and min(label.get_fontsize() for label in labels) >= MIN_POINTS
    assert f"({diagram.PATH.name})" in (LESSONS / folder / "README.md").read_text(encoding="utf-8")
