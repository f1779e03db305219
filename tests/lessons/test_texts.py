"""The texts have their sections, and their commands, links and tests exist."""

import ast
import re
import shlex
import tomllib

import pytest

from lessons import course
from minimtp.cli import make_parser
from tests.lessons.helpers import (
    LESSONS,
    ROOT,
    definitions,
    every_lesson,
    exercise_tests,
    folder,
    parse,
    script,
    text,
)
from tests.lessons.worked.reading import first_evening


def test_the_overview_installs_what_runs_plots_and_exercises_need():
    overview = (LESSONS / "README.md").read_text(encoding="utf-8")
    (extra,) = re.findall(r'^pip install -e "\.\[(\w+)\]"$', overview, flags=re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", line)[0] for line in project["optional-dependencies"][extra]}
    tests = {"pytest", "pytest-xdist", "hypothesis"}
    interop = {"gguf", "tokenizers", "jinja2"}  # of lesson 11
    assert needed == {"numba", "matplotlib"} | tests | interop


MAX_WORDS, MAX_FILES = 1_500, 4  # of a first evening


@every_lesson
def test_a_first_evening_is_short(number):
    words, files = first_evening(number)
    assert len(words) <= MAX_WORDS and len(files) <= MAX_FILES


SECTIONS = [
    "The wrong way first",
    "The idea",
    "Shapes",
    "By hand",
    "Run it",
    "On a GPU",
    "Exercises",
    "What changed",
    "Further reading",
]
OPTIONAL_SECTION = "Second evening"  # advanced parts; anywhere between the others


@every_lesson
def test_a_text_has_its_question_its_plot_and_its_sections_in_order(number):
    main = definitions(parse(folder(number) / "__main__.py"))["main"]
    question = ast.get_docstring(main)
    assert f"**{question}**" in text(number)
    assert question in (LESSONS / "README.md").read_text(encoding="utf-8")
    assert "(plot.png)" in text(number)
    found = re.findall(r"^## (.*)$", text(number), flags=re.MULTILINE)
    assert [name for name in found if name != OPTIONAL_SECTION] == SECTIONS


@every_lesson
def test_every_command_in_a_text_and_its_options_exist(number):
    for command in script("readme_commands").commands(text(number)):
        words = shlex.split(command)
        if words[:2] == ["python", "-m"]:
            assert words[2] == f"lessons.{course.NAMES[number - 1]}"
            course.make_parser(number).parse_args(words[3:])
        elif words[0] == "pytest":
            assert all((ROOT / word).is_file() for word in words[1:] if not word.startswith("-")), (
                command
            )
        elif words[0] == "minimtp":
            make_parser().parse_args(words[1:])
        else:
            assert words[:2] == ["pip", "install"], (
                f"{command!r}: only python -m lessons..., minimtp, pytest and pip install are "
                "allowed in a lesson's text"
            )


@pytest.mark.parametrize(
    "path", sorted(LESSONS.rglob("README.md")), ids=lambda path: path.parent.name
)
def test_links_lead_to_existing_files(path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@every_lesson
def test_tests_and_test_selections_that_a_text_names_exist(number):
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    for name in re.findall(r"`(test_\w+)`", text(number)):
        assert any(f"def {name}(" in source for source in sources), name
    own = "".join((ROOT / file).read_text(encoding="utf-8") for file in exercise_tests(number))
    words = re.sub(r"[^\w-]", " ", own + " ".join(exercise_tests(number))).split()
    for selection in re.findall(r"`-k (?:\"([^\"]+)\"|(\S+))`", text(number)):
        for word in set("".join(selection).split()) - {"and", "or", "not"}:
            assert any(word in name for name in words), f"-k {word} selects no test"
