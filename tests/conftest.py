"""Fixtures of all tests, and `--mine`, which tests a reader's own answers to the exercises.

A test of an exercise gets the function or class under test from the fixture `own`. Normally this is
the library's. With `pytest --mine` it is the one with the same name in a lesson's exercise.py. So
the library's tests also test the exercises.
"""

import ast
import functools
import importlib
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# Tests must not write their measurements to the user's cache folder.
MEASURED = tempfile.TemporaryDirectory(prefix="minimtp-tests-")
os.environ["MINIMTP_CACHE"] = MEASURED.name

# A shell starts its background jobs with Ctrl-C ignored, and minimtp respects that. The tests press
# Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples have no time limit, because the first one may compile kernels and machines are shared.
# The sequence of examples is fixed, so a failure can be reproduced. `own` returns the same object
# for every example of a test.
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
    """A device other than the host: a strict stand-in for CuPy, or a GPU with `pytest -m gpu`."""
    from minimtp.backend import Device, choose_device

    if request.param == "cuda":
        return choose_device("cuda")  # without a GPU, fails with the reason
    from tests import strict_cupy

    monkeypatch.setitem(sys.modules, "cupy", strict_cupy)
    monkeypatch.setattr("minimtp.kernels._cuda", None)
    return Device("cuda", strict_cupy, "the strict stand-in")


@pytest.fixture
def cuda_sources(request):
    """Skip the test if its device cannot run CUDA sources; the stand-in needs a C++ compiler."""
    from tests import cuda_on_host, strict_cupy

    on_the_stand_in = (
        "device" in request.fixturenames and request.getfixturevalue("device").xp is strict_cupy
    )
    if on_the_stand_in and cuda_on_host.COMPILER is None:
        pytest.skip("no C++ compiler (g++) to run the CUDA sources on the host")


@pytest.fixture
def choose_kernels(monkeypatch):
    """choose_kernels(choice, device) selects kernels for one test.

    The kernels of the stand-in need a C++ compiler. The test is skipped if there is none.
    """
    from tests import cuda_on_host, strict_cupy

    def choose(choice, device):
        if choice == "auto" and device.xp is strict_cupy and cuda_on_host.COMPILER is None:
            pytest.skip("no C++ compiler (g++) to run the CUDA sources on the host")
        monkeypatch.setattr("minimtp.kernels._choice", choice)

    return choose


EXERCISES = sorted(Path(__file__).resolve().parent.parent.glob("lessons/lesson*/exercise.py"))


def pytest_addoption(parser):
    parser.addoption(
        "--mine",
        action="store_true",
        help="test your own lessons/*/exercise.py instead of the library",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Use one process for the exercises, which are few, and for tests that share one GPU."""
    if config.getoption("--mine") or re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        config.option.numprocesses = 0


def pytest_configure(config):
    if config.getoption("--mine"):
        config.option.tbstyle = "short"  # the reader only needs the message


def pytest_collection_modifyitems(config, items):
    if config.getoption("--mine"):
        mine = [item for item in items if "own" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in mine])
        items[:] = mine


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Report an open exercise not as a failure but as one line that says what to write."""
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
    """own(ops.Divide) returns ops.Divide, or the reader's Divide with --mine."""
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
        f"{thing.__name__} is not an exercise: remove the fixture `own` from this test"
    )
