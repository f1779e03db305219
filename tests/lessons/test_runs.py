"""A lesson runs alone, prints its result, saves its plot and rejects bad options."""

import ast
import importlib.util

import pytest

from lessons import course
from tests.lessons.helpers import ALWAYS, every_lesson, library_file, parse, run_python

REPORT_LOADED = """
import runpy, sys
sys.argv[0] = "-m"
runpy.run_module({module!r}, run_name="__main__")
print(*sorted(name for name in sys.modules if name.startswith("minimtp")), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run a lesson once, alone in an empty folder: preset tiny, plain kernels only."""
    done = {}

    def run(number):
        if number not in done:
            cwd = tmp_path_factory.mktemp("alone")
            code = REPORT_LOADED.format(module=f"lessons.{course.NAMES[number - 1]}")
            done[number] = (
                run_python(
                    ["-c", code, "--preset", "tiny", "--device", "cpu"],
                    cwd,
                    MINIMTP_KERNELS="plain",
                ),
                cwd,
            )
        return done[number]

    return run


@every_lesson
def test_a_lesson_runs_alone_and_prints_its_result_below_the_previous_one(number, runs):
    process, _ = runs(number)
    assert process.returncode == 0, process.stderr
    before, now = process.stdout.splitlines()[-2:]
    assert before.startswith("  before ")
    assert now.startswith(f"  lesson {number} ")


@every_lesson
def test_a_run_loads_only_modules_introduced_so_far(number, runs):
    process, _ = runs(number)
    loaded = {
        name for name in process.stderr.splitlines()[-1].split() if not is_empty_package(name)
    } - ALWAYS
    assert loaded <= set(course.introduced(number))


def is_empty_package(name):
    """Return whether the module is an __init__.py that contains only a docstring."""
    path = library_file(name)
    return path.name == "__init__.py" and all(
        isinstance(node, ast.Expr) for node in parse(path).body
    )


@every_lesson
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="plots need matplotlib")
def test_a_lesson_saves_its_plot(number, runs):
    _, cwd = runs(number)
    assert (
        cwd / "runs" / "lessons" / "tiny" / f"lesson{number:02d}" / "plot.png"
    ).stat().st_size > 10_000


def test_an_unusable_option_gives_one_sentence_and_exit_code_2(tmp_path):
    (tmp_path / "file").touch()
    for options in (["--device", "cdua"], ["--preset", "tyni"], ["--nonsense"], ["--out", "file"]):
        process = run_python(["-m", f"lessons.{course.NAMES[0]}", *options], tmp_path)
        assert process.returncode == 2
        assert "Traceback" not in process.stderr and options[-1] in process.stderr
