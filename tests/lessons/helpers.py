"""What the tests of the lessons share: the files of a lesson and what they define."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lessons import course

ROOT = Path(__file__).resolve().parents[2]
LESSONS = ROOT / "lessons"
NUMBERS = range(1, len(course.NAMES) + 1)
MAX_RUN_SECONDS = 600  # a run takes about a minute on an idle machine
ALWAYS = {"minimtp"}  # minimtp/__init__.py imports no module of the library


def folder(number):
    return LESSONS / course.NAMES[number - 1]


def text(number):
    return (folder(number) / "README.md").read_text(encoding="utf-8")


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


every_lesson = pytest.mark.parametrize(
    "number", NUMBERS, ids=lambda number: course.NAMES[number - 1]
)


def library_file(module):
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def definitions(tree):
    """Return {name: node} of the functions and classes at the top level of a file or class."""
    return {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def functions(node):
    """Return {name: node} of a function itself, or of the methods of a class."""
    return {node.name: node} if isinstance(node, ast.FunctionDef) else definitions(node)


def is_stub(function, number):
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return len(body) == 1 and ast.unparse(body[0]).startswith(
        f"raise NotImplementedError('lesson {number}: "
    )


def stubs(number):
    """Return {name: node} of the definitions in exercise.py that have something left to write."""
    tree = definitions(parse(folder(number) / "exercise.py"))
    return {
        name: node
        for name, node in tree.items()
        if any(is_stub(f, number) for f in functions(node).values())
    }


def exercise_tests(number):
    """Return the test files that the lesson's text tells the reader to run."""
    return [
        file
        for files in re.findall(r"^pytest --mine (.+)$", text(number), flags=re.MULTILINE)
        for file in files.split()
    ]


def run_python(arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=MAX_RUN_SECONDS,
    )


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
