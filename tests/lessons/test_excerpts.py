"""The code blocks of the lessons' texts show the library as it is (.ci/excerpts.py)."""

import re

import pytest

from tests.lessons.helpers import NUMBERS, every_lesson, script, stubs, text

MAX_LINES = 20

excerpts = script("excerpts")


def marked(number):
    """Return the marks of a lesson's code blocks as [(path, name, part)]."""
    return excerpts.MARK.findall(text(number))


@every_lesson
def test_code_in_the_text_is_the_code_of_the_library(number):
    assert text(number) == excerpts.updated(text(number)), "run: python .ci/excerpts.py"


@every_lesson
def test_every_mark_has_its_block_and_every_block_of_python_its_mark(number):
    assert len(excerpts.BLOCK.findall(text(number))) == len(marked(number))
    assert len(re.findall("^```python$", text(number), re.MULTILINE)) == len(marked(number))


@every_lesson
def test_a_block_of_the_library_is_not_a_program_for_ci(number):
    assert script("readme_commands").programs(text(number)) == []


@every_lesson
def test_a_block_has_at_most_twenty_lines(number):
    for block in excerpts.BLOCK.findall(text(number)):
        assert block[-1].count("\n") <= MAX_LINES, block[0]


@every_lesson
def test_no_block_shows_the_solution_of_an_exercise_that_is_still_to_come(number):
    open_exercises = {name for later in NUMBERS if later >= number for name in stubs(later)}
    for path, name, _ in marked(number):
        assert name.split(".")[0] not in open_exercises, f"{path} {name} is an exercise"


@pytest.fixture
def example(tmp_path, monkeypatch):
    monkeypatch.setattr(excerpts, "ROOT", tmp_path)
    lines = [
        "class Shape:", '    """A shape."""', "", "    @property", "    def area(self):",
        '        """Two', '        lines."""', "        # why",
        "        a = self.x[..., 0]", "        return a",
    ]  # fmt: skip
    (tmp_path / "shapes.py").write_text("\n".join(lines) + "\n")
    return "shapes.py"


def test_an_excerpt_is_dedented_and_has_no_docstrings(example):
    method = "@property\ndef area(self):\n    # why\n    a = self.x[..., 0]\n    return a\n"
    assert excerpts.excerpt(example, "Shape.area") == method
    whole = excerpts.excerpt(example, "Shape").splitlines()
    assert whole == ["class Shape:", *("    " + line for line in method.splitlines())]


@pytest.mark.parametrize("part", ["x[..., 0] .. return", "x[..., 0]..return"])
def test_a_part_goes_from_the_first_text_to_the_next_line_with_the_second(example, part):
    assert excerpts.excerpt(example, "Shape.area", part) == "a = self.x[..., 0]\nreturn a\n"


def test_a_page_is_updated_block_by_block(example):
    marks = ["Shape.area", "Shape.area why .. return"]
    page = "".join(f"<!-- code: {example} {mark} -->\n```python\nold\n```\n\n" for mark in marks)
    method, part = (excerpts.excerpt(example, *mark.split(" ", 1)) for mark in marks)
    assert excerpts.updated(page) == page.replace("old\n", method, 1).replace("old\n", part)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Circle", None),
        ("Shape.edge", None),
        ("Shape", "return .. why"),
        ("Shape", "nothing .. return"),
        ("Shape", "return"),
    ],
)
def test_a_mark_that_matches_nothing_is_an_error(example, name, part):
    with pytest.raises(LookupError, match=example):
        excerpts.excerpt(example, name, part)
