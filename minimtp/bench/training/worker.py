"""Run one implementation in its own process, which waits for the batches of each round.

In one process, the threads of several libraries disturb each other, and on a GPU each library keeps
the memory that it has allocated. So each implementation runs in its own process. On a GPU it
releases the memory of a step at the end of each round, because all implementations together may
need more than the GPU has. The first steps of the next round allocate the memory again and record
the CUDA graph again. They are not counted.
"""

import signal
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import perf_counter
from typing import NamedTuple

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.bench.training.implementations import (
    BASELINES,
    EXTRA_TOKENS,
    OTHERS,
    OURS,
    VARIANTS,
    Implementation,
    Minimtp,
)
from minimtp.errors import MeasurementFailed, UserError
from minimtp.training.recipe import Recipe

UNCOUNTED = {"cpu": 0, "cuda": 1}  # steps at the start of a round that are not counted


class Round(NamedTuple):
    """The result of a list of batches."""

    seconds: float  # by the host's clock
    device_seconds: float | None  # by the GPU's clock
    losses: list[float]


class Worker:
    """An implementation in its own process. `about` describes it.

    Raises ImportError if the implementation's library is missing, UserError if it rejects a
    setting.
    """

    def __init__(
        self, name: str, recipe: Recipe, threads: int, device: str, kernel_choice: str | None
    ) -> None:
        # A spawned process inherits only the environment, not this process's threads and settings.
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        settings = (name, recipe, threads, device, kernel_choice)
        self.process = context.Process(target=_work, args=(theirs, *settings), daemon=True)
        self.process.start()
        theirs.close()
        self.about: dict[str, object] = self._receive()

    def run(self, batches: Sequence[np.ndarray], uncounted: int = 0) -> Round:
        """See `run_round`. The batches are (B, T + 1 + EXTRA_TOKENS). Each implementation receives
        the part that it uses.
        """
        unused = EXTRA_TOKENS - self.about.get("extra_tokens", 0)
        self._send(([tokens[:, : tokens.shape[1] - unused] for tokens in batches], uncounted))
        return self._receive()

    def close(self) -> None:
        """End the process, even in the middle of a round."""
        self.process.terminate()
        self.process.join()
        self.connection.close()

    def _send(self, work: object) -> None:
        try:
            self.connection.send(work)
        except OSError:
            self._raise_ended()

    def _receive(self):
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self._raise_ended()
        if isinstance(answer, Exception):
            self.close()
            raise answer
        return answer

    def _raise_ended(self) -> None:
        self.process.join()
        code = self.process.exitcode
        raise MeasurementFailed(
            f"a process of the measurement ended with exit code {code}"
        ) from None


def run_round(
    implementation: Implementation, batches: Sequence[np.ndarray], uncounted: int
) -> Round:
    """Take a step on each batch. The first `uncounted` steps are neither timed nor reported."""
    losses: list[float] = []
    if uncounted:
        implementation.run(batches[:uncounted])
    began = perf_counter()
    counted = batches[uncounted:]
    on_device = implementation.elapsed(lambda: losses.extend(implementation.run(counted)))
    seconds = perf_counter() - began
    if on_device is not None:
        implementation.release()
    return Round(seconds, on_device, losses)


def _work(
    connection: Connection,
    name: str,
    recipe: Recipe,
    threads: int,
    device: str,
    kernel_choice: str | None,
) -> None:
    """The worker process: describe the implementation, then answer each list of batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    try:
        if kernel_choice:
            kernels.use(kernel_choice)
        implementation = ({OURS: Minimtp} | OTHERS)[name](recipe, threads, device)
    except (ImportError, UserError) as error:
        connection.send(error)
        return
    connection.send(implementation.about)
    while True:
        try:
            batches, uncounted = connection.recv()
        except EOFError:
            return
        connection.send(run_round(implementation, batches, uncounted))


def start_workers(
    recipe: Recipe, threads: int, device: str, kernel_choice: str | None, stack: ExitStack
) -> tuple[dict[str, Worker], dict[str, str]]:
    """Return (workers by name, why the others are missing). `stack` ends the workers."""
    workers, missing = {}, {}
    for name in (OURS, *VARIANTS, *BASELINES[device]):
        if name in BASELINES[device] and find_spec("torch") is None:
            missing[name] = "is not installed; pip install torch to measure it too"
            continue
        try:
            workers[name] = Worker(name, recipe, threads, device, kernel_choice)
            stack.callback(workers[name].close)
        except ImportError as error:
            missing[name] = str(error).splitlines()[0]
    return workers, missing
