"""The README says what the code does now: its table is the measured one, its commands exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from minimtp.cli.parser import make_parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMANDS = script("readme_commands").commands(README)
GPU = script("readme_commands").commands(
    (ROOT / "minimtp" / "kernels" / "cuda" / "README.md").read_text(encoding="utf-8")
)


def test_the_tables_are_the_measured_ones():
    tables = script("readme_table")
    assert set(re.findall(r"<!-- table:(\S+) -->", README)) == {*tables.BLOCKS, "processors"}
    assert tables.updated(README) == README


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS + GPU if command.startswith("minimtp")]
)
def test_every_command_exists_with_its_options(command):
    make_parser().parse_args(shlex.split(command)[1:])


def test_the_first_two_commands_install_and_do_the_main_job_and_the_tests():
    assert COMMANDS[:4] == [
        'pip install -e ".[fast]"',
        "minimtp compare",
        'pip install -e ".[dev]"',
        "pytest",
    ]


def test_every_file_in_the_tree_exists():
    tree = README.partition("## Where things are")[2].partition("\n\nImports")[0]
    for folder, files in re.findall(r"^      (\w+)/ +(.*)$", tree, flags=re.MULTILINE):
        for name in re.findall(r"\w+\.py", files):
            assert (ROOT / "minimtp" / folder / name).is_file(), f"{folder}/{name}"
