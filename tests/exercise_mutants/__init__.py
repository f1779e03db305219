"""Wrong solutions of the exercises, which their tests must reject, and right ones they must accept.

`lessons/lessonNN.py` holds `EXERCISES`, the solutions by the number of the exercise in the text:

    EXERCISES = {1: Solutions(right={name: source, ...}, wrong={name: source, ...}), ...}

A name says what is wrong, or how a right solution differs from the library's. A source is what a
reader would write into exercise.py: a function; or a class with only the methods to fill in, for
the exercises that are methods; and imports and further functions, if it needs them. `changed`
makes a wrong solution from a right one.

The runner reads the test selection of an exercise from the text of its lesson: the files of the
command `pytest --mine ...` with `-k ...` or `in tests/...` from the item. It replaces the stubs of
exercise.py, solves the earlier exercises with the library's code, leaves the later ones open, and
runs the command.
"""

import ast
import importlib
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from lessons import course


@dataclass(frozen=True)
class Solutions:
    """Sources by name, at least two right ones and five wrong ones."""

    right: dict[str, str]
    wrong: dict[str, str]


@dataclass(frozen=True)
class Exercise:
    """An exercise as the text of its lesson presents it.

    name: a function, a class or "Class.method". selection: the arguments of `pytest --mine`.
    selects: whether these are fewer tests than those of all exercises of the lesson.
    """

    name: str
    selection: list[str]
    selects: bool


def changed(source: str, *edits: tuple[str, str]) -> str:
    """Return the source with each old text, which must occur exactly once, replaced by the new."""
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
        source = source.replace(old, new)
    return source


def solutions(lesson: int) -> dict[int, Solutions]:
    return importlib.import_module(f"{__name__}.lessons.lesson{lesson:02d}").EXERCISES


def lessons_with_solutions() -> list[int]:
    return sorted(int(path.stem[6:]) for path in Path(__file__).parent.glob("lessons/lesson??.py"))


def exercises(lesson: int) -> list[Exercise]:
    """Return the exercises in the text of a lesson, in order."""
    path = course.FOLDER / course.NAMES[lesson - 1] / "README.md"
    section = (
        path.read_text(encoding="utf-8").partition("\n## Exercises\n")[2].partition("\n## ")[0]
    )
    (files,) = re.findall(r"^pytest --mine (.+)$", section, flags=re.MULTILINE)
    found = []
    for item in re.findall(r"^\d\. .*(?:\n {3}.*)*", section, flags=re.MULTILINE):
        name = re.match(r"\d\. `([\w.]+)`", item)
        word = re.search(r"\(`-k (?:\"([^\"]+)\"|(\S+))`\)", item)
        file = re.search(r"\(in `?(tests/[\w/]+\.py)`?\)", item)
        selection = [file[1]] if file else files.split()
        selection += ["-k", word[1] or word[2]] if word else []
        name = name[1] if name else found[-1].name  # "The same method with ..."
        found.append(Exercise(name, selection, bool(file or word)))
    return found


def exercise_text(lesson: int, number: int, source: str) -> str:
    """Return the lesson's exercise.py with this solution of one exercise.

    The earlier exercises are solved by the library, the later ones stay open.
    """
    path = course.FOLDER / course.NAMES[lesson - 1] / "exercise.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.parse(textwrap.dedent(source)).body:
        insert(node, tree.body)
    lines = [ast.unparse(tree)]
    this = exercises(lesson)[number - 1]
    for earlier in exercises(lesson)[: number - 1]:
        outer, _, method = earlier.name.partition(".")
        module = home(lesson, outer)
        if earlier.name == this.name:
            continue
        if method:
            lines += [f"from {module} import {outer} as _library"]
            lines += [f"{outer}.{method} = _library.{method}"]
        else:
            lines += [f"from {module} import {outer}"]
    return "\n".join(lines)


def insert(node: ast.stmt, body: list[ast.stmt]) -> None:
    """Put a definition in the place of the one with the same name, and a new one at the start.

    The methods of a class replace those of the class with the same name, one by one.
    """
    for i, old in enumerate(body):
        if getattr(node, "name", "") == getattr(old, "name", None):
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    insert(part, old.body)
            else:
                node.decorator_list = node.decorator_list or old.decorator_list
                body[i] = node
            return
    body.insert(0, node)


def home(lesson: int, name: str) -> str:
    """Return the name of the module that defines the library's function or class."""
    (found,) = [
        module
        for module in course.introduced(lesson)
        if getattr(vars(importlib.import_module(module)).get(name), "__module__", "") == module
    ]
    return found
