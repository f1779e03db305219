"""Runs the command of an exercise on a solution. A program: `runner.py` starts it in a new process.

It does not import `tests`, because an installed package may have the same name.
"""

import contextlib
import importlib
import io
import os
import sys
import tempfile
from types import ModuleType

import pytest


class Outcomes:
    """A pytest plugin that records outcomes, and skips the search for the shortest failing example,
    which takes long and does not change whether a test fails.
    """

    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        phases = [Phase.explicit, Phase.generate]
        settings.register_profile("verdict", settings.get_profile("minimtp"), phases=phases)
        settings.load_profile("verdict")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.when == "call":
            outcome = "open" if hasattr(report, "still_open") else report.outcome
            self.found.append((outcome, report.nodeid, report.longreprtext))


def outcomes(
    folder: str, name: str, text: str, arguments: list[str], temporary: str
) -> list[tuple[str, str, str]]:
    """Run pytest with the text as the module `name`, in the project's folder."""
    tempfile.tempdir = temporary  # the process ends without removing its temporary folders
    os.chdir(folder)
    sys.path.insert(0, folder)
    module = sys.modules[name] = ModuleType(name)
    package, _, last = name.rpartition(".")
    setattr(importlib.import_module(package), last, module)
    exec(compile(text, f"{name} with a solution", "exec"), vars(module))
    plugin = Outcomes()
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(arguments, plugins=[plugin])
    return plugin.found


if __name__ == "started by the runner":
    sender, job = globals()["sender"], globals()["job"]
    sender.send(outcomes(*job))
