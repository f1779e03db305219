"""The figures of the lessons can be read: no label is smaller than 8 points."""

import importlib
import re

import pytest

from tests.lessons.helpers import LESSONS, ROOT

MIN_POINTS = 8
SIZES = re.compile(r"(?:fontsize|labelsize|\"size\")\W{1,3}(\d+(?:\.\d+)?)\b")


@pytest.mark.parametrize(
    "path", sorted(LESSONS.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_no_label_is_smaller_than_eight_points(path):
    sizes = [float(size) for size in SIZES.findall(path.read_text(encoding="utf-8"))]
    assert all(size >= MIN_POINTS for size in sizes), f"{path.relative_to(ROOT)}: {sizes}"


DIAGRAMS = {
    "lesson01_autograd.diagram": 15,  # labels, at least
    "lesson02_training.diagram": 20,
    "lesson03_transformer.diagram": 15,
    "lesson03_transformer.example": 15,
    "lesson04_generating.diagram": 40,
    "lesson05_heads.diagram": 15,
    "lesson06_speculative.diagram": 15,
}


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_can_be_drawn_and_its_labels_are_readable(name):
    figures = pytest.importorskip("matplotlib.figure", reason="plots need matplotlib")
    text = pytest.importorskip("matplotlib.text")
    diagram = importlib.import_module(f"lessons.{name}")
    figure = figures.Figure(getattr(diagram, "SIZE", (11, 5.2)))
    diagram.draw(figure)
    labels = [label for label in figure.findobj(text.Text) if label.get_text()]
    assert len(labels) > DIAGRAMS[name]
    assert min(label.get_fontsize() for label in labels) >= MIN_POINTS
    page = diagram.PATH.parent / "README.md"
    assert diagram.PATH.is_file() and f"({diagram.PATH.name})" in page.read_text(encoding="utf-8")
