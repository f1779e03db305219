"""Docstrings that list the files of a folder list all of them."""

import argparse
import ast
import re
from pathlib import Path

import pytest

import minimtp
from minimtp.cli import make_parser

PACKAGE = Path(minimtp.__file__).parent
ENTRY = re.compile(r"^ *\w+\.py\b", re.MULTILINE)  # a line of a list begins with a name


def docstring_of(folder: Path) -> str:
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")} - {"__init__.py"}


def described_together() -> dict[Path, set[str]]:
    """Return the files that a docstring describes by a rule instead of one by one."""
    commands = next(
        action.choices
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return {
        PACKAGE / "cli": {f"{command}.py" for command in commands},
        PACKAGE / "kernels" / "cpu": files_of(PACKAGE / "kernels" / "plain"),
    }


LISTS = [
    init.parent
    for init in sorted(PACKAGE.rglob("__init__.py"))
    if ENTRY.search(docstring_of(init.parent))
]


@pytest.mark.parametrize("folder", LISTS, ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_a_docstring_that_lists_the_files_of_its_folder_leaves_none_out(folder):
    named = set(re.findall(r"\w+\.py", docstring_of(folder)))
    missing = sorted(files_of(folder) - named - described_together().get(folder, set()))
    assert not missing, f"the docstring of {folder.name}/ does not name {', '.join(missing)}"


def test_lists_of_files_are_found():
    assert {PACKAGE / "decode", PACKAGE / "model", PACKAGE / "kernels" / "cpu"} <= set(LISTS)
