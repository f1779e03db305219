"""The exercises are the library's functions, and its tests test them."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from functools import cache

import pytest

from lessons import course
from tests.lessons.helpers import (
    NUMBERS,
    ROOT,
    definitions,
    every_lesson,
    exercise_tests,
    folder,
    functions,
    is_stub,
    library_file,
    parse,
    stubs,
)


def library_definition(number, name):
    found = [
        node
        for module in course.introduced(number)
        if (node := definitions(parse(library_file(module))).get(name))
    ]
    assert len(found) == 1, (
        f"{name} must be defined in one of the modules introduced so far, not in {len(found)}"
    )
    return found[0]


def outside_methods(node):
    """Return the decorators, bases and fields of a class."""
    fields = [part for part in node.body if not isinstance(part, ast.FunctionDef)]
    return [ast.dump(part) for part in [*node.decorator_list, *node.bases, *fields]]


@every_lesson
def test_a_stub_has_the_signature_and_docstring_of_the_library_and_no_body(number):
    tree = definitions(parse(folder(number) / "exercise.py"))
    assert tree.keys() == stubs(number).keys() and 1 <= len(tree) <= 3
    for name, node in tree.items():
        original = library_definition(number, name)
        assert ast.get_docstring(node) == ast.get_docstring(original), name
        if isinstance(node, ast.ClassDef):
            assert outside_methods(node) == outside_methods(original), name
        mine, theirs = functions(node), functions(original)
        assert mine.keys() == theirs.keys(), name
        for method, function in mine.items():
            other = theirs[method]
            assert ast.dump(function.args) == ast.dump(other.args), (
                f"{name}.{method}: the signature differs from the library's"
            )
            assert [ast.dump(d) for d in function.decorator_list] == [
                ast.dump(d) for d in other.decorator_list
            ]
            assert ast.get_docstring(function) == ast.get_docstring(other), (
                f"{name}.{method}: the docstring differs from the library's"
            )
            given = [ast.dump(statement) for statement in function.body] == [
                ast.dump(statement) for statement in other.body
            ]
            assert given or is_stub(function, number), (
                f"{name}.{method} is neither a stub nor equal to the library's method"
            )


def solution(number):
    """Return an exercise.py that contains the library's own definitions."""
    parts = []
    for name in stubs(number):
        modules = [
            m for m in course.introduced(number) if name in definitions(parse(library_file(m)))
        ]
        home = importlib.import_module(modules[0])
        names = ", ".join(n for n in vars(home) if not n.startswith("__"))
        parts.append(f"from {modules[0]} import {names}\n")
        parts.append(ast.unparse(library_definition(number, name)) + "\n")
    return "\n".join(parts)


def run_exercises(project):
    """Run `pytest --mine` on a copy of lessons and tests, with the real library.

    Returns {test file: [(outcome, line)]}, with one line per open exercise and per test.
    """
    files = [file for number in NUMBERS for file in exercise_tests(number)]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-rA",
        "--hypothesis-profile=few",
        "--mine",
        *files,
    ]
    environment = os.environ | {"PYTHONPATH": f"{project}{os.pathsep}{ROOT}", "COLUMNS": "1000"}
    output = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True
    ).stdout
    outcomes = {file: [] for file in files}
    for outcome, file, line in re.findall(
        r"^(PASSED|FAILED|ERROR|OPEN) (tests/[\w/]+\.py)(.*)$", output, flags=re.MULTILINE
    ):
        outcomes[file].append((outcome, line))
    return outcomes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """outcomes("open") returns the results of `pytest --mine` with open exercises, and
    outcomes("solved") those with the library's functions.
    """

    @cache
    def outcomes(state):
        project = tmp_path_factory.mktemp(state)
        for part in ("lessons", "tests", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, project / part)
        if state == "solved":
            for number in NUMBERS:
                name = course.NAMES[number - 1]
                (project / "lessons" / name / "exercise.py").write_text(solution(number))
        return run_exercises(project)

    return outcomes


@every_lesson
def test_an_open_exercise_reports_one_line_that_says_what_to_write(number, outcomes):
    for file in exercise_tests(number):
        assert outcomes("open")[file], f"no test in {file} uses the fixture `own`"
        for outcome, line in outcomes("open")[file]:
            assert outcome == "OPEN" and f" - lesson {number}: " in line, line


@every_lesson
@pytest.mark.slow
def test_the_library_solves_the_exercises(number, outcomes):
    for file in exercise_tests(number):
        found = outcomes("solved")[file]
        assert found and [line for outcome, line in found if outcome != "PASSED"] == []


@every_lesson
def test_every_exercise_is_tested_in_files_of_its_lesson_only(number):
    others = {file for other in NUMBERS if other != number for file in exercise_tests(other)}
    assert exercise_tests(number) and not set(exercise_tests(number)) & others
    sources = "".join((ROOT / file).read_text(encoding="utf-8") for file in exercise_tests(number))
    for name in stubs(number):
        assert re.search(rf"\bown\([\w.]*\b{name}\)", sources), f"no test uses own({name})"
