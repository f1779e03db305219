"""Training in several processes, on one machine or many: `mpirun -n N minimtp train ...`.

Every process has the whole model and takes its rows of every batch, as a thread takes its shard of them (`engine/replicas.py`).
The gradients are then summed over the processes, and each makes the same optimizer step:

    each process receives its part of the N gradients, adds them in the order of the processes, and sends the sum to all

That is as little traffic as any way to sum (twice the gradient, whatever N is), and its order is fixed: N processes give the
bits of one process with N shards. On GPUs, NCCL sums instead, in an order of its own.

For what the hosts exchange nobody waits for ever. A process that fails says so before the next sum, and one that is gone is
missed after MINIMTP_PATIENCE seconds (default 600), or once the launcher asks the others to end. The step that could not be
finished is as if it had not begun: the first process saves what was reached and says how to go on. MPICH's mpirun kills all
processes as soon as one is killed; then the last saved checkpoint, which is always whole, is what there is, and a small witness
that outlives them says so. NCCL has no such patience: who is gone while it connects or sums leaves the others waiting, for
their GPU, until the launcher ends them.

Only the first process writes and prints.
"""

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minimtp.backend import Array, Device, array_module
from minimtp.backend import numpy as np
from minimtp.errors import UserError

WITNESS = "import sys\nif not sys.stdin.buffer.read(): print(sys.argv[1], file=sys.stderr)"  # silence: the sender was killed
SIZE_VARIABLES = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MPI_LOCALNRANKS",
)  # Open MPI; MPICH, Intel MPI, Slurm's PMI
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MPI_LOCALRANKID")
PATIENCE_VARIABLE = "MINIMTP_PATIENCE"
PATIENCE = 600.0  # seconds, longer than an evaluation, which only the first process makes
PATIENCE_WITH_SAVING = 60.0  # seconds
PATIENCE_WHEN_ASKED_TO_END = 0.5  # seconds: launchers kill soon after asking
TIME_FOR_LAST_WORDS = 0.5  # seconds: an aborted run's launcher drops what it has not passed on yet


class Lost(Exception):
    """The processes cannot go on together; the message says why. The step that was under way has changed nothing."""


class Alone:
    """A team of one process: the interface of `Team`, and nothing to do."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def gather(self, values: np.ndarray) -> np.ndarray:
        """(n,) float64 of every process -> (size, n)."""
        return values[None]

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        return bool(self.gather(np.array([float(value)])).any())

    def sum_losses(self, compute: Callable[[], np.ndarray], count: int) -> np.ndarray:
        """compute() of every process, (count,) each, added up. Raises Lost, in all of them, where it failed in one."""
        if self.size == 1:
            return compute()
        failure, losses = None, np.zeros(count)
        try:
            losses = compute()
        except Exception as error:
            failure = error
        table = self.gather(np.array([float(failure is not None), *losses]))
        failed = np.flatnonzero(table[:, 0])
        if failed.size:
            known = f" ({type(failure).__name__}: {failure})" if failure else ""
            raise Lost(
                f"process {(self.rank if failure else failed[0]) + 1} of {self.size} failed{known}"
            ) from failure
        return sum(table[:, 1:])

    def sum_in_place(self, array: Array) -> None:
        """Replace the array by the sum over all processes, the same bits everywhere. Raises Lost, except where NCCL sums."""

    def describe(self) -> str:
        """What a run says of it; empty where there is nothing to say."""
        return ""

    def prepare(self) -> None:
        """Another run comes, perhaps not the first: from now on a process that ends takes the others with it."""

    def begin(self, asked: Callable[[], bool], last_words: str) -> None:
        """The first step comes. asked: whether this process was asked to end; last_words: said if all processes are killed."""

    def finish(self) -> None:
        """All is well: this process may end without taking the others with it."""


class Team(Alone):
    """The processes that mpirun started together. rank: this one's number, of `size`; local: among those of this machine."""

    def __init__(self, mpi: object, patience: float) -> None:
        self._mpi, self._world, self._patience = mpi, mpi.COMM_WORLD, patience
        self.rank, self.size = self._world.rank, self._world.size
        neighbours = self._world.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = neighbours.rank, neighbours.size
        self._nccl = None
        self._witness: subprocess.Popen | None = None
        self.prepare()
        atexit.register(self._end_all)  # an error anywhere must not leave the others waiting
        if self.rank:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)

    def gather(self, values: np.ndarray) -> np.ndarray:
        table = np.empty((self.size, len(values)))
        self._wait(self._world.Iallgather(np.ascontiguousarray(values, np.float64), table))
        return table

    def sum_in_place(self, array: Array) -> None:
        if array_module(array) is np:
            self._sum_on_the_host(array)
        elif not self._sum_with_nccl(array):
            host = array.get()
            self._sum_on_the_host(host)
            array[...] = array_module(array).asarray(host)

    def describe(self) -> str:
        return f"{self.size}, each with its rows of the batch ({self.local_size} on this machine)"

    def prepare(self) -> None:
        self._asked: Callable[[], bool] = lambda: False
        self._at_work = self._finished = False

    def begin(self, asked: Callable[[], bool], last_words: str) -> None:
        self._asked, self._at_work = asked, True
        if self.rank == 0 and self._witness is None:
            self._witness = subprocess.Popen(
                [sys.executable, "-c", WITNESS, last_words],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )

    def finish(self) -> None:
        self._finished = True
        self._dismiss_witness()

    def _dismiss_witness(self) -> None:
        if self._witness is not None:
            self._witness.communicate(b"nothing to say")
            self._witness = None

    def _sum_on_the_host(self, array: np.ndarray) -> None:
        bounds = np.linspace(0, array.size, self.size + 1).astype(int)
        counts, starts = np.diff(bounds), bounds[:-1]
        mine = counts[self.rank]
        parts = np.empty(
            (self.size, mine), array.dtype
        )  # this process's part of everybody's gradient
        own = np.full(self.size, mine), np.arange(self.size) * mine
        self._wait(self._world.Ialltoallv((array, (counts, starts)), (parts, own)))
        total = parts[0].copy()
        for part in parts[1:]:
            total += part
        self._wait(self._world.Iallgatherv(total, (array, (counts, starts))))

    def _sum_with_nccl(self, array: Array) -> bool:
        """Whether NCCL is there to do it; one line says so where it is not."""
        if self._nccl is None:
            self._nccl = self._connect(array_module(array))
        if not self._nccl:
            return False
        nccl, connection = self._nccl
        kind = nccl.NCCL_FLOAT32 if array.dtype == np.float32 else nccl.NCCL_FLOAT64
        stream = array_module(array).cuda.get_current_stream()
        connection.allReduce(
            array.data.ptr, array.data.ptr, array.size, kind, nccl.NCCL_SUM, stream.ptr
        )
        return True

    def _connect(self, xp: object) -> tuple | bool:
        try:
            from importlib import import_module

            nccl = import_module("cupy.cuda.nccl")
            number = nccl.get_unique_id() if self.rank == 0 else None
            obstacle = None
        except Exception as error:
            obstacle = error
        if self.gather(np.array([float(obstacle is not None)])).any():
            if self.rank == 0:
                print(
                    f"minimtp: NCCL is unusable ({obstacle}): gradients go through the host, slower",
                    file=sys.stderr,
                )
            return False
        number = self._world.bcast(number)
        return nccl, nccl.NcclCommunicator(self.size, number, self.rank)

    def _wait(self, request: object) -> None:
        """Until the request is done. Raises Lost after too long, or when this process is asked to end meanwhile."""
        began, asked_at = time.monotonic(), None
        while not request.Test():
            now = time.monotonic()
            if asked_at is None and self._asked():
                asked_at = now
            if asked_at is not None and now - asked_at > PATIENCE_WHEN_ASKED_TO_END:
                raise Lost("this run was asked to end while it waited for the other processes")
            if now - began > self._patience:
                raise Lost(f"another process has not answered for {self._patience:g} seconds")
            time.sleep(0 if now - began < 0.002 else 0.0005)

    def _end_all(self) -> None:
        if self._finished:
            return
        sys.stderr.flush()
        self._dismiss_witness()  # what went wrong has been said
        if self.rank and self._at_work:
            time.sleep(PATIENCE_WITH_SAVING)  # the first process ends us when it has saved
        time.sleep(TIME_FOR_LAST_WORDS)
        self._world.Abort(2)


_joined: Team | None = None


def join() -> Alone:
    """The team that this process was started in. Raises UserError where mpirun started several and mpi4py is unusable."""
    global _joined
    if _joined is not None:
        return _joined
    wanted = _largest(SIZE_VARIABLES, 1)
    if wanted < 2:
        return Alone()
    try:
        from mpi4py import MPI
    except Exception as error:  # no mpi4py, or no MPI library for it: RuntimeError
        raise UserError(
            f"mpirun started {wanted} processes, and mpi4py cannot be used ({error}): pip install 'minimtp[mpi]'"
        ) from None
    if MPI.COMM_WORLD.size < 2:
        raise UserError(
            f"mpirun started {wanted} processes and mpi4py sees one: it belongs to another MPI; reinstall mpi4py"
        )
    try:
        patience = float(os.environ.get(PATIENCE_VARIABLE) or PATIENCE)
    except ValueError:
        raise UserError(
            f"{PATIENCE_VARIABLE} must be a number of seconds, not {os.environ[PATIENCE_VARIABLE]!r}"
        ) from None
    _joined = Team(MPI, patience)
    return _joined


def command_to_resume(out: str | Path) -> str:
    """What goes on with the run in this folder, in as many processes as now."""
    size = join().size
    return (f"mpirun -n {size} " if size > 1 else "") + f"minimtp train --out {out} --resume"


def refuse_several(command: str) -> None:
    """For the commands that are the work of one process. Raises UserError in the first of several that mpirun started, and
    ends the others without a word."""
    if _largest(SIZE_VARIABLES, 1) < 2:
        return
    if _largest(RANK_VARIABLES, 0):
        raise SystemExit(2)
    raise UserError(
        f"{command} is the work of one process, and only train is shared by several: start it without mpirun"
    )


def _largest(variables: tuple[str, ...], default: int) -> int:
    """The largest number among these variables of the environment."""
    return max(
        (int(os.environ[name]) for name in variables if os.environ.get(name, "").isdigit()),
        default=default,
    )


def use_own_gpu(team: Alone, device: Device) -> None:
    """Give each process of a machine a GPU of its own, in turn, before anything is created on it."""
    if device.name == "cuda" and team.size > 1:
        device.xp.cuda.Device(team.local_rank % device.xp.cuda.runtime.getDeviceCount()).use()
