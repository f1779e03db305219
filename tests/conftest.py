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
import traceback
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
    from tests import strict_cupy
    from tests.helpers import cuda_on_host

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
    from tests import strict_cupy
    from tests.helpers import cuda_on_host

    def choose(choice, device):
        if choice == "auto" and device.xp is strict_cupy and cuda_on_host.COMPILER is None:
            pytest.skip("no C++ compiler (g++) to run the CUDA sources on the host")
        monkeypatch.setattr("minimtp.kernels._choice", choice)

    return choose


EXERCISES = sorted(Path(__file__).resolve().parent.parent.glob("lessons/lesson*/exercise.py"))
MESSAGE_LINES = 8  # of an error in an exercise
MAX_SECONDS = 60  # of processor time for one test of an exercise
REPORTED = set()  # the tests, without their parameters, and the messages of reported failures


class TooLong(BaseException):
    """A test of an exercise that does not end. Hypothesis does not catch it and try again."""


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
    if config.getoption("--mine") and config.option.reportchars == "fE":  # the default
        config.option.reportchars = ""  # the messages name the tests already


@pytest.hookimpl(trylast=True)  # after the plugin of Hypothesis has loaded its profile
def pytest_configure(config):
    if config.getoption("--mine"):
        # The first failing example is enough. To look for a smaller one can take minutes.
        phases = [Phase.explicit, Phase.generate]
        settings.register_profile("mine", settings(), phases=phases, report_multiple_bugs=False)
        settings.load_profile("mine")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--mine"):
        mine = [item for item in items if "own" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in mine])
        items[:] = mine


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """With --mine, stop a test whose answer contains an endless loop."""
    if not item.config.getoption("--mine") or not hasattr(signal, "SIGVTALRM"):
        yield
        return

    def stop(*_):
        raise TooLong(f"no result after {MAX_SECONDS} seconds: does a loop never end?")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With --mine, report an open exercise not as a failure but as one line that says what to
    write, and a failure as one short message. Failures of a test with other parameters, or with the
    same message, are only counted.
    """
    outcome = yield
    if not item.config.getoption("--mine") or call.excinfo is None:
        return
    report, errors = outcome.get_result(), single_errors(call.excinfo.value)
    still_open = [e for e in errors if isinstance(e, NotImplementedError)]
    if still_open and str(still_open[0]).startswith("lesson "):
        report.still_open = f"{item.nodeid.partition('::')[0]} - {still_open[0]}"
    elif report.failed:
        report.longrepr = short_message(errors[0])
        same = {item.nodeid.partition("[")[0], report.longrepr}
        if same & REPORTED:
            report.is_alike = True
        REPORTED.update(same)


def pytest_report_teststatus(report):
    if hasattr(report, "is_alike"):
        return "more like them", "F", "FAILED"
    return ("open", "o", "OPEN") if hasattr(report, "still_open") else None


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("open", [])
    for what, count in Counter(report.still_open for report in reports).items():
        terminalreporter.write_line(f"OPEN {what} ({count} test{'s' if count > 1 else ''})")


def single_errors(error):
    """Return the errors in an exception group, or the error alone.

    Hypothesis raises a group if examples fail in different ways.
    """
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [single for part in error.exceptions for single in single_errors(part)]


def short_message(error):
    """Return the error, the example for which it was found, and the line of exercise.py, if any."""
    lines = [line.rstrip()[:160] for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("assert ") for line in lines[1:]):  # pytest explains it again
        lines = lines[: next(i for i, line in enumerate(lines) if line.startswith("assert "))]
    if not isinstance(error, AssertionError) or not lines:
        lines = [f"{type(error).__name__}: {lines[0] if lines else ''}", *lines[1:]]
    lines = lines[:MESSAGE_LINES]
    notes = "\n".join(getattr(error, "__notes__", []))
    example = re.search(r": test_\w+\(\n(.*?)\n\)", notes, re.DOTALL)  # as Hypothesis notes it
    if example:
        arguments = [line.strip() for line in example[1].splitlines()]
        arguments = [a for a in arguments if not a.startswith(("own=", "#"))]
        lines.append(f"for the example {' '.join(arguments).rstrip(',')}"[:160])
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) in EXERCISES]
    if frames:
        path = Path(frames[-1].filename).relative_to(EXERCISES[0].parents[2])
        lines.append(f"in {path}, line {frames[-1].lineno}: {frames[-1].line}")
    return "\n".join(lines)


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
