"""Lessons introduce modules in order, and each changes few settings."""

import ast

from lessons import course
from minimtp.training.presets import PRESETS
from tests.lessons.helpers import ALWAYS, NUMBERS, every_lesson, folder, library_file, parse

MAX_CHANGED_SETTINGS = 3
MAX_STORY_LINES = 60


def imported(path):
    """Return the library modules that a file imports at its top.

    Imports inside functions do not count: a reader does not need those modules to read the file.
    """
    names = set()
    for node in parse(path).body:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "minimtp":
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in submodules if library_file(name).is_file()}
            names |= submodules or {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "minimtp"}
    return names - ALWAYS


def test_lessons_are_numbered_from_one_without_gaps():
    assert [int(name[6:8]) for name in course.NAMES] == list(NUMBERS)


@every_lesson
def test_a_lesson_introduces_existing_modules_that_no_earlier_lesson_introduced(number):
    modules = course.introduced(number)
    assert not [module for module in modules if not library_file(module).is_file()]
    assert len(set(modules)) == len(modules)


@every_lesson
def test_introduced_modules_import_only_modules_introduced_so_far(number):
    known = set(course.introduced(number))
    for module in known:
        assert imported(library_file(module)) <= known, (
            f"{module} needs a module that no lesson up to {number} introduces"
        )
    for path in folder(number).glob("*.py"):
        assert imported(path) <= known, (
            f"{path.name} uses a module that no lesson up to {number} introduces"
        )


@every_lesson
def test_a_recipe_changes_at_most_three_settings_of_the_previous_one(number):
    if number > 1:
        assert len(course.changes(number)) <= MAX_CHANGED_SETTINGS


@every_lesson
def test_the_main_file_of_a_lesson_fits_on_a_page(number):
    assert len((folder(number) / "__main__.py").read_text().splitlines()) <= MAX_STORY_LINES


def test_a_preset_keeps_its_own_settings_and_the_changes_of_the_lessons():
    for name, settings in PRESETS.items():
        recipe = course.recipe_of(NUMBERS[-1], name)
        assert all(getattr(recipe, setting) == value for setting, value in settings.items())
