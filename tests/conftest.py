"""What all tests share, and `--mine`, which checks a reader's own answers to the lessons' exercises.

A test that takes the fixture `own` asks it for the library's function or class that it is about. Normally it gets that; under
`pytest --mine` it gets the one of the same name from a lesson's exercise.py. So the library's tests are the exercises' tests.
"""

import ast
import functools
import importlib
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# What tests measure of this machine is not for the user's own folder.
MEASURED = tempfile.TemporaryDirectory(prefix="minimtp-tests-")
os.environ["MINIMTP_CACHE"] = MEASURED.name

# Examples have no time limit: the first one may compile kernels, and machines are shared. Their sequence is fixed, so that a
# failure seen once is seen again. `own` gives the same thing to every example of a test.
settings.register_profile(
    "minimtp", deadline=None, derandomize=True, max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.register_profile(
    "few", settings.get_profile("minimtp"), max_examples=8, phases=[Phase.generate]
)
settings.register_profile(  # tests/mutants/MUTATION.md
    "mutants",
    settings.get_profile("minimtp"),
    max_examples=10,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("minimtp")


@pytest.fixture(params=["strict", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """A device that is not the host: the strict stand-in for CuPy always, the GPU with `pytest -m gpu`."""
    from minimtp.backend import Device, choose_device

    if request.param == "cuda":
        return choose_device("cuda")  # fails, saying why, where there is none
    from tests import strict_cupy

    monkeypatch.setitem(sys.modules, "cupy", strict_cupy)
    monkeypatch.setattr("minimtp.kernels._cuda", None)
    return Device("cuda", strict_cupy, "the strict stand-in")


@pytest.fixture
def cuda_sources(request):
    """The test's device can run the CUDA sources: a GPU always, the stand-in where there is a C++ compiler."""
    from tests import cuda_on_host, strict_cupy

    on_the_stand_in = (
        "device" in request.fixturenames and request.getfixturevalue("device").xp is strict_cupy
    )
    if on_the_stand_in and cuda_on_host.COMPILER is None:
        pytest.skip("there is no C++ compiler (g++) to run the CUDA sources on the host with")


EXERCISES = sorted(Path(__file__).resolve().parent.parent.glob("lessons/lesson*/exercise.py"))


def pytest_addoption(parser):
    parser.addoption(
        "--mine",
        action="store_true",
        help="check your own lessons/*/exercise.py instead of the library",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """A reader's few exercises are quicker in one process, and so is whatever shares one GPU."""
    if config.getoption("--mine") or re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        config.option.numprocesses = 0


def pytest_configure(config):
    if config.getoption("--mine"):
        config.option.tbstyle = "short"  # the message is what the reader needs


def pytest_collection_modifyitems(config, items):
    if config.getoption("--mine"):
        mine = [item for item in items if "own" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in mine])
        items[:] = mine


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """An exercise that is still open is no failure to look into: one line at the end says what is to be written."""
    outcome = yield
    error = call.excinfo.value if call.excinfo else None
    if (
        item.config.getoption("--mine")
        and isinstance(error, NotImplementedError)
        and str(error).startswith("lesson ")
    ):
        outcome.get_result().still_open = f"{item.nodeid.partition('::')[0]} - {error}"


def pytest_report_teststatus(report):
    return ("open", "o", "OPEN") if hasattr(report, "still_open") else None


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("open", [])
    for what, count in Counter(report.still_open for report in reports).items():
        terminalreporter.write_line(f"OPEN {what} ({count} test{'s' if count > 1 else ''})")


@pytest.fixture
def own(request):
    """own(ops.Divide) is ops.Divide, or under --mine the reader's Divide."""
    return readers_version if request.config.getoption("--mine") else lambda thing: thing


@functools.cache
def readers_version(thing):
    for path in EXERCISES:
        names = {
            getattr(node, "name", "") for node in ast.parse(path.read_text(encoding="utf-8")).body
        }
        if thing.__name__ in names:
            return getattr(
                importlib.import_module(f"lessons.{path.parent.name}.exercise"), thing.__name__
            )
    raise LookupError(
        f"{thing.__name__} is no lesson's exercise: take the fixture `own` out of this test"
    )
