"""Runs the command of an exercise on solutions. A program: `runner.py` starts it in a new process.

pytest imports and collects the tests of the exercise once, which takes longer than to run most of
them. Then each solution gets a copy of the process, in which nothing has run yet. A system that
cannot copy a process runs one solution per process.

It does not import `tests`, because an installed package may have the same name.
"""

import contextlib
import importlib
import io
import multiprocessing
import os
import sys
import tempfile
from multiprocessing.connection import Connection
from types import ModuleType

import pytest


class Solutions:
    """A pytest plugin that runs the collected tests on each solution that arrives, and records the
    outcomes. It skips the search for the shortest failing example, which takes long and does not
    change whether a test fails.

    name: of the module with the solution. connection: receives (text of that module, temporary
    folder, whether to stop at the first failure), or None at the end, and sends the outcomes.
    """

    def __init__(self, name: str, connection: Connection) -> None:
        self.name, self.connection = name, connection
        self.found: list[tuple[str, str, str]] = []
        self.has_solution = self.is_copy = False

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        phases = [Phase.explicit, Phase.generate]
        settings.register_profile("verdict", settings.get_profile("minimtp"), phases=phases)
        settings.load_profile("verdict")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Returns True if nothing is left to run. After None, pytest runs the tests."""
        while job := self.connection.recv():
            if not hasattr(os, "fork"):
                self.use(*job, session.config)
                return None
            receiver, sender = multiprocessing.Pipe(duplex=False)
            process = os.fork()
            if process == 0:
                self.is_copy, self.connection = True, sender
                self.use(*job, session.config)
                return None
            sender.close()
            try:
                self.connection.send(receiver.recv())
            except EOFError:  # the copy died
                self.connection.send([])
            os.waitpid(process, 0)
        return True

    def use(self, text: str, temporary: str, stop: bool, config: pytest.Config) -> None:
        """Install the text as the module `name`."""
        self.has_solution = True
        # Nothing is shared with other solutions. The process ends without removing these folders.
        tempfile.tempdir = os.environ["MINIMTP_CACHE"] = temporary
        config.option.maxfail = int(stop)
        module = sys.modules[self.name] = ModuleType(self.name)
        package, _, last = self.name.rpartition(".")
        setattr(importlib.import_module(package), last, module)
        exec(compile(text, f"{self.name} with a solution", "exec"), vars(module))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.when == "call":
            outcome = "open" if hasattr(report, "still_open") else report.outcome
            self.found.append((outcome, report.nodeid, report.longreprtext))


def serve(
    folder: str, name: str, arguments: list[str], temporary: str, connection: Connection
) -> None:
    """Run pytest in the project's folder. temporary: for files of the collection."""
    tempfile.tempdir = temporary
    os.chdir(folder)
    sys.path.insert(0, folder)
    plugin = Solutions(name, connection)
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(arguments, plugins=[plugin])
    if plugin.has_solution:
        plugin.connection.send(plugin.found)
    if plugin.is_copy:
        os._exit(0)


if __name__ == "started by the runner":
    serve(*globals()["arguments"])
