"""Runs the command of an exercise on solutions, each in a new process."""

import contextlib
import multiprocessing
import os
import runpy
from pathlib import Path

from lessons import course
from tests.exercise_mutants import exercise_text, exercises

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(__file__).with_name("command.py")
PRELOADED = ["pytest", "hypothesis.extra.numpy", "numba"]  # what takes long to import


class Command:
    """The command of an exercise, ready to run. temporary: an existing folder for its files.

    Its process is a copy of one that has imported what takes long, on systems that can do that.
    """

    def __init__(self, lesson: int, number: int, temporary: Path) -> None:
        self.lesson, self.number, self.temporary = lesson, number, temporary
        self.process = None

    def outcomes(self, source: str, temporary: Path, stop: bool = False) -> list[tuple[str, ...]]:
        """Run the tests on a solution. Returns ("passed", "failed" or "open"; test; message).

        stop: at the first failure. temporary: an existing folder.
        """
        if self.process is None:
            self._start()
        text = exercise_text(self.lesson, self.number, source)
        self.connection.send((text, str(temporary), stop))
        found = self.connection.recv()
        if not hasattr(os, "fork"):  # the process runs only one solution
            self.close()
        return found

    def _start(self) -> None:
        name = f"lessons.{course.NAMES[self.lesson - 1]}.exercise"
        selection = exercises(self.lesson)[self.number - 1].selection
        arguments = ["--mine", *selection, "-p", "no:cacheprovider"]
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        context.set_forkserver_preload(PRELOADED)
        self.connection, theirs = context.Pipe()
        job = str(ROOT), name, arguments, str(self.temporary), theirs
        self.process = context.Process(
            target=runpy.run_path, args=(str(COMMAND), {"arguments": job}, "started by the runner")
        )
        self.process.start()
        theirs.close()

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(OSError):  # the process has ended
                self.connection.send(None)
            self.connection.close()
            self.process.join()
            self.process = None
