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
    ("module", "labels"), [("lesson03_transformer", 16), ("lesson06_speculative", 16)]
)
def test_a_diagram_can_be_drawn_and_its_labels_are_readable(module, labels):
    figures = pytest.importorskip("matplotlib.figure", reason="plots need matplotlib")
    text = pytest.importorskip("matplotlib.text")
    figure = figures.Figure((11, 5.2))
    importlib.import_module(f"lessons.{module}.diagram").draw(figure)
    found = [label for label in figure.findobj(text.Text) if label.get_text()]
    assert len(found) >= labels and min(label.get_fontsize() for label in found) >= MIN_POINTS
