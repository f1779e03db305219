"""The tables, commands and links of README.md and data/results/README.md agree with the code."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from minimtp.cli import make_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "data/results/README.md",
    "minimtp/README.md",
    "minimtp/kernels/cuda/README.md",
)


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


README = read("README.md")
COMMANDS = {page: script("readme_commands").commands(read(page)) for page in PAGES}


def test_the_tables_agree_with_the_measured_files():
    tables = script("tables")
    pages = [page.read_text(encoding="utf-8") for page in tables.PAGES]
    assert [tables.updated(page) for page in pages] == pages
    names = [name for page in pages for name in re.findall(r"<!-- table:(\S+) -->", page)]
    assert sorted(names) == sorted([*tables.BLOCKS, *tables.SUMMARIES])


@pytest.mark.parametrize(
    "command", [c for page in PAGES for c in COMMANDS[page] if c.startswith("minimtp")]
)
def test_every_documented_command_exists_with_its_options(command):
    make_parser().parse_args(shlex.split(command)[1:])


def test_the_first_commands_of_the_readme_install_compare_and_run_the_tests():
    assert COMMANDS["README.md"][:4] == [
        'pip install -e ".[fast]"',
        "minimtp compare",
        'pip install -e ".[dev]"',
        "pytest",
    ]


def test_the_readme_is_short_and_its_first_forty_lines_say_how_to_start():
    assert len(README.encode()) <= 8_000
    assert "minimtp compare\n" in "\n".join(README.splitlines()[:40])
    for line in README.splitlines():
        assert line.count("|") <= 6, "a table of more than five columns"


def test_the_map_names_every_folder():
    tree = re.search(r"\n\n((?:    .*\n)+)", read("minimtp/README.md"))[1]
    named, above = set(), []
    for indent, name in re.findall(r"^( +)(\w+)/ ", tree, re.MULTILINE):
        above = [*above[: len(indent) // 2 - 2], name]
        named.add("/".join(above))
    package = ROOT / "minimtp"
    folders = {path.parent.relative_to(package).as_posix() for path in package.rglob("__init__.py")}
    parts = {folder for folder in folders if folder.count("/") <= 1} - {"."}
    assert named == parts


def test_the_figure_of_the_readme_can_be_drawn():
    figures = script("figures")
    figures.draw_comparison(
        figures.Figure(layout="constrained"), figures.measured("compare-laptop")
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_figure_of_a_page_exists(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", read(page)):
        assert (ROOT / page).parent.joinpath(target).exists(), target
