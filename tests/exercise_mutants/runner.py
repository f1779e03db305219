"""Runs the command of an exercise on a solution, in a new process."""

import multiprocessing
import runpy
from pathlib import Path

from lessons import course
from tests.exercise_mutants import exercise_text, exercises

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(__file__).with_name("command.py")
PRELOADED = ["pytest", "hypothesis.extra.numpy", "numba"]  # what takes long to import


def outcomes_of(
    lesson: int, number: int, source: str, temporary: Path, stop: bool = False
) -> list[tuple[str, str, str]]:
    """Run the command of an exercise. Returns ("passed", "failed" or "open"; test; message).

    stop: at the first failure. temporary: an existing folder. The processes are copies of one that
    has imported what takes long, on systems that can do that.
    """
    name = f"lessons.{course.NAMES[lesson - 1]}.exercise"
    arguments = ["--mine", *exercises(lesson)[number - 1].selection, "-p", "no:cacheprovider"]
    arguments += ["-x"] * stop
    job = str(ROOT), name, exercise_text(lesson, number, source), arguments, str(temporary)
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=runpy.run_path,
        args=(str(COMMAND), {"job": job, "sender": sender}, "started by the runner"),
    )
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()
