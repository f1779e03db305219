"""Training in several processes, on one machine or many: `mpirun -n N minimtp train ...`.

Every process holds the whole model and processes its own rows of every batch. Its threads share
these rows (engine/replicas.py). The processes then sum their gradients, and each of them makes the
same optimizer step. To sum N gradients in a fixed order with the least possible traffic,

    each process receives its part of all N gradients, adds them in the order of the processes,
    and sends the sum to all processes.

This sends twice the size of the gradient, for any N. N processes compute the same bits as one
process with N shards. On GPUs, NCCL sums instead, in its own order.

**If a process is lost,** the others never wait forever. A process that fails tells the others
before the next sum. A process that has ended is detected after MINIMTP_PATIENCE seconds (default
600), or as soon as the launcher asks the others to end. The unfinished step changes nothing: the
first process saves the last finished step and prints the command that resumes the run.

If a process is killed while it sends, MPICH reports the transfer as complete, without its data.
Every process therefore numbers its transfers and confirms each sum with this number.

MPICH's mpirun kills all processes as soon as one is killed. The last checkpoint is then complete. A
small witness process survives and prints the command that resumes the run.

NCCL has no such timeout. If a process ends while NCCL connects or sums, the others wait until the
launcher ends them.

Only the first process writes files and prints.
"""

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Protocol

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np

WITNESS = (  # prints its argument unless it receives a word: then its parent was killed
    "import sys\nif not sys.stdin.buffer.read(): print(sys.argv[1], file=sys.stderr)"
)
TIME_TO_SAVE = 60.0  # seconds that a failed process gives the first process to save
TIME_TO_END = 0.5  # seconds to wait on after a request to end: launchers kill soon after it
TIME_TO_PRINT = 0.5  # seconds: an aborted run's launcher drops output that it has not passed on


class ProcessLost(Exception):
    """The processes cannot continue together. The current step changed nothing."""


class Request(Protocol):
    """A message that MPI sends or receives in the background."""

    def Test(self) -> bool: ...


class SingleProcess:
    """A group of one process: the interface of `ProcessGroup`, with nothing to do."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Return the values (n,) float64 of every process: (size, n).

        Raises ProcessLost if a process has ended.
        """
        return values[None]

    def any(self, value: bool) -> bool:
        """Return whether the value is true in any process."""
        return bool(self.gather(np.array([float(value)])).any())

    def sum_losses(self, compute: Callable[[], np.ndarray], count: int) -> np.ndarray:
        """Call `compute` in every process, and return the sum of the results, (count,) each.

        Raises ProcessLost in every process if `compute` failed in one.
        """
        return compute()

    def sum_in_place(self, array: Array) -> None:
        """Replace the array by its sum over all processes, with the same bits in all of them.

        Raises ProcessLost, except if NCCL sums.
        """

    def describe(self) -> str:
        """Return a line about the group for the report of a run, empty for one process."""
        return ""

    def prepare(self) -> None:
        """Prepare for another run. From now on, a process that ends also ends the others."""

    def begin(self, stop_requested: Callable[[], bool], last_words: str) -> None:
        """Begin the first step.

        stop_requested: returns whether this process was asked to end.
        last_words: printed if all processes are killed.
        """

    def finish(self) -> None:
        """Mark the run as finished. From now on, this process can end without ending the others."""


class ProcessGroup(SingleProcess):
    """The processes that mpirun started together.

    rank, size: the number of this process among all of them. local_rank, local_size: the same among
    the processes of this machine.
    """

    def __init__(self, mpi: ModuleType, patience: float) -> None:
        self._world = mpi.COMM_WORLD
        self._patience = patience  # seconds
        self.rank, self.size = self._world.rank, self._world.size
        neighbours = self._world.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = neighbours.rank, neighbours.size
        self._nccl: NcclSum | None = None
        self._nccl_failed = False
        self._transfers = 0
        self._witness: subprocess.Popen | None = None
        self.prepare()
        atexit.register(self._end_all)  # an error anywhere must not leave the others waiting
        if self.rank:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (open until the process ends)

    def gather(self, values: np.ndarray) -> np.ndarray:
        self._transfers += 1
        row = np.array([self._transfers, *values], np.float64)  # (1 + n,)
        table = np.full((self.size, row.size), np.nan)  # (size, 1 + n)
        self._wait(self._world.Iallgather(row, table))
        if np.any(table[:, 0] != self._transfers):
            raise ProcessLost("another process has ended")
        return table[:, 1:]

    def sum_losses(self, compute: Callable[[], np.ndarray], count: int) -> np.ndarray:
        failure, losses = None, np.zeros(count)
        try:
            losses = compute()
        except Exception as error:  # of any kind: the other processes must not wait for this one
            failure = error
        table = self.gather(np.array([float(failure is not None), *losses]))  # (size, 1 + count)
        failed = np.flatnonzero(table[:, 0])
        if failed.size:
            number = (self.rank if failure else failed[0]) + 1
            reason = f" ({type(failure).__name__}: {failure})" if failure else ""
            raise ProcessLost(f"process {number} of {self.size} failed{reason}") from failure
        return sum(table[:, 1:])

    def sum_in_place(self, array: Array) -> None:
        if array_module(array) is np:
            self._sum_on_the_host(array)
        elif self._connect_nccl():
            self._nccl.sum_in_place(array)
        else:
            host = array.get()
            self._sum_on_the_host(host)
            array[...] = array_module(array).asarray(host)

    def describe(self) -> str:
        return f"{self.size}, each with its rows of the batch ({self.local_size} on this machine)"

    def prepare(self) -> None:
        self._stop_requested: Callable[[], bool] = lambda: False
        self._training = self._finished = False

    def begin(self, stop_requested: Callable[[], bool], last_words: str) -> None:
        self._stop_requested, self._training = stop_requested, True
        if self.rank == 0 and self._witness is None:
            self._witness = subprocess.Popen(
                [sys.executable, "-P", "-c", WITNESS, last_words],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )

    def finish(self) -> None:
        self._finished = True
        self._dismiss_witness()

    def _dismiss_witness(self) -> None:
        if self._witness is not None:
            self._witness.communicate(b"nothing to print")
            self._witness = None

    def _sum_on_the_host(self, array: np.ndarray) -> None:
        bounds = np.linspace(0, array.size, self.size + 1).astype(int)
        counts, starts = np.diff(bounds), bounds[:-1]
        own = counts[self.rank]
        parts = np.empty((self.size, own), array.dtype)  # this process's part of every gradient
        places = np.full(self.size, own), np.arange(self.size) * own
        self._wait(self._world.Ialltoallv((array, (counts, starts)), (parts, places)))
        total = parts[0].copy()
        for part in parts[1:]:
            total += part
        self._wait(self._world.Iallgatherv(total, (array, (counts, starts))))
        self.gather(np.empty(0))  # a process that ended before the end of the sum is noticed here

    def _connect_nccl(self) -> bool:
        """Return whether NCCL connects the GPUs. Prints one line if it does not."""
        if self._nccl is None and not self._nccl_failed:
            nccl, identity, failure = None, None, None
            try:
                nccl = import_module("cupy.cuda.nccl")
                identity = nccl.get_unique_id() if self.rank == 0 else None
            except Exception as error:  # of CuPy or NCCL, whose classes are undocumented
                failure = error
            self._nccl_failed = self.any(failure is not None)
            if not self._nccl_failed:
                identity = self._world.bcast(identity)
                self._nccl = NcclSum(nccl, identity, self.rank, self.size)
            elif self.rank == 0:
                print(
                    f"minimtp: NCCL is unusable ({failure}): "
                    "gradients are summed on the host, which is slower",
                    file=sys.stderr,
                )
        return self._nccl is not None

    def _wait(self, request: Request) -> None:
        """Wait for an MPI request.

        Raises ProcessLost after `patience` seconds, or soon after this process was asked to end.
        """
        began, requested_at = time.monotonic(), None
        while not request.Test():
            now = time.monotonic()
            if requested_at is None and self._stop_requested():
                requested_at = now
            if requested_at is not None and now - requested_at > TIME_TO_END:
                raise ProcessLost(
                    "this run was asked to end while it waited for the other processes"
                )
            if now - began > self._patience:
                raise ProcessLost(
                    f"another process has not answered for {self._patience:g} seconds"
                )
            time.sleep(0 if now - began < 0.002 else 0.0005)

    def _end_all(self) -> None:
        """End all processes, unless the run is finished. Called when this process ends."""
        if self._finished:
            return
        sys.stderr.flush()
        if self.rank and self._training:
            time.sleep(TIME_TO_SAVE)  # the first process ends this one when it has saved
        time.sleep(TIME_TO_PRINT)
        self._dismiss_witness()  # the message of this process has been printed
        self._world.Abort(2)


class NcclSum:
    """Sums GPU arrays over the processes with NCCL."""

    def __init__(self, nccl: ModuleType, identity: tuple, rank: int, size: int) -> None:
        self._nccl = nccl
        self._communicator = nccl.NcclCommunicator(size, identity, rank)

    def sum_in_place(self, array: Array) -> None:
        """Replace the float32 or float64 array by its sum over all processes."""
        nccl, pointer = self._nccl, array.data.ptr
        kind = nccl.NCCL_FLOAT32 if array.dtype == np.float32 else nccl.NCCL_FLOAT64
        stream = array_module(array).cuda.get_current_stream()
        self._communicator.allReduce(pointer, pointer, array.size, kind, nccl.NCCL_SUM, stream.ptr)
