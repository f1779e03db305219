"""Wrong answers to the exercises are reported in one short message each."""

import os
import re
import shutil
import signal
import subprocess
import sys
from types import ModuleType

import pytest

from lessons import course
from tests.lessons.helpers import ROOT, folder

WRONG = """
from minimtp.backend import array_module
from minimtp.engine.tensor import Op

class SiLU(Op):
    def forward(self, a):
        self.sigmoid = 1 / (1 + array_module(a).exp(-a))
        return a * self.sigmoid

    def backward(self, gradient):
        return gradient * self.sigmoid

def undo_broadcasting(gradient, shape):
    if shape == ():
        raise KeyError(shape)
    return gradient.sum(0)
"""

ENDLESS = """def undo_broadcasting(gradient, shape):
    while gradient.shape != shape:
        gradient = gradient.sum(axis=0)
    return gradient
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of lessons and tests with wrong answers to the exercises of lesson 1."""
    project = tmp_path_factory.mktemp("wrong")
    for part in ("lessons", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, project / part)
    (project / "lessons" / folder(1).name / "exercise.py").write_text(WRONG)
    return project


def run(project, *arguments):
    environment = os.environ | {"PYTHONPATH": f"{project}{os.pathsep}{ROOT}", "COLUMNS": "100"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def output(project):
    options = ("-p", "no:cacheprovider", "--mine", "-k", "silu or broadcast")
    return run(project, "-m", "pytest", *options, "tests/engine/test_ops.py").stdout


def test_a_wrong_value_is_reported_without_the_code_of_the_test(output):
    assert "SiLU: gradient of input 0 at (" in output and "expected " in output
    assert "check_gradients(" not in output and "Traceback" not in output


def test_an_error_in_an_answer_is_reported_with_its_line_and_the_example(output):
    assert "FloatingPointError: overflow encountered in exp\n" in output
    file = f"lessons/{folder(1).name}/exercise.py"
    assert f"in {file}, line 7: self.sigmoid = 1 / (1 + array_module(a).exp(-a))\n" in output
    assert f"KeyError: ()\nfor the example shape=(), seed=0\nin {file}, line 15: raise" in output


@pytest.mark.skipif(not hasattr(signal, "SIGVTALRM"), reason="this system has no timer signals")
def test_an_endless_loop_is_stopped_and_reported_with_its_line(project, tmp_path):
    endless = shutil.copytree(project, tmp_path / "endless")
    (endless / "lessons" / folder(1).name / "exercise.py").write_text(
        WRONG.partition("def undo_broadcasting")[0] + ENDLESS
    )
    settings = endless / "tests" / "conftest.py"
    source = settings.read_text(encoding="utf-8")
    assert source.count("MAX_SECONDS = 60 ") == 1
    settings.write_text(source.replace("MAX_SECONDS = 60 ", "MAX_SECONDS = 2 "), encoding="utf-8")
    options = ("-p", "no:cacheprovider", "--mine", "-k", "broadcast")
    output = run(endless, "-m", "pytest", *options, "tests/engine/test_ops.py").stdout
    assert "TooLong: no result after 2 seconds: does a loop never end?" in output
    assert f"in lessons/{folder(1).name}/exercise.py, line 1" in output


def test_the_whole_report_of_three_failures_fits_on_a_screen(output):
    assert "3 failed" in output.splitlines()[-1] and "more like them" not in output
    assert len(output.splitlines()) <= 15


def test_failures_that_differ_only_in_their_parameters_are_counted_and_not_repeated(
    project, tmp_path
):
    alike = shutil.copytree(project, tmp_path / "alike")
    answer = "def encode_q8_0(x):\n    return x, x\n"
    (alike / "lessons" / folder(7).name / "exercise.py").write_text(answer)
    options = ("-p", "no:cacheprovider", "--mine", "tests/kernels/rounding/test_encode_q8_0.py")
    output = run(alike, "-m", "pytest", *options).stdout
    last = output.splitlines()[-1]
    shown, more = (int(re.search(rf"(\d+) {what}", last)[1]) for what in ("failed", "more like"))
    assert output.count("\n_") == shown > 0 and more > 0


def test_a_run_with_wrong_answers_ends_with_one_line_that_names_the_line(project):
    process = run(project, "-m", f"lessons.{folder(1).name}", "--preset", "tiny", "--mine")
    assert process.returncode == 1
    assert "mine      SiLU, undo_broadcasting\n" in process.stderr
    last = process.stderr.splitlines()[-1]
    assert last.startswith(f"python -m lessons.{folder(1).name}: KeyError: () (")
    assert last.endswith("exercise.py, line 15: raise KeyError(shape))")
    assert "Traceback" not in process.stderr


def test_an_answer_also_replaces_entries_of_registries_and_static_methods(monkeypatch):
    def original():
        pass

    def answer():
        pass

    module = ModuleType("minimtp.registry_of_the_test")
    module.function, module.BY_NAME = original, {"original": original, "other": print}
    module.Rule = type("Rule", (), {"chain": staticmethod(original)})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    course._replace(original, answer)
    assert module.function is answer and module.BY_NAME == {"original": answer, "other": print}
    assert module.Rule.chain is answer


def test_a_run_without_answers_says_which_exercise_to_write():
    process = run(ROOT, "-m", f"lessons.{folder(1).name}", "--preset", "tiny", "--mine")
    assert process.returncode == 2
    assert "all exercises are open: write Divide in " in process.stderr.splitlines()[-1]
