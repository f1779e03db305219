"""Threads that compute one forward pass together.

Each thread computes a share of the outputs of every matrix product, and all wait for one another
before one of them reads what the others have written. A pass of a model with 30 blocks takes a few
milliseconds and has 150 such meetings, so they cost nothing but a few accesses to memory: a thread
counts itself in, then reads the counter until everybody is there. No share of a sum is added to
another, so the bits of a result do not depend on the number of threads.
"""

import os
import platform
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled

__all__ = ["Team", "meet", "share"]

ARRIVALS, FAILED = 0, 1  # of a meeting: arrivals so far, and whether a thread has failed
PATIENCE = 50_000  # reads of the counter before another program may have this core
IS_X86 = platform.machine().lower() in ("x86_64", "amd64", "x86")
CAN_YIELD = platform.system() != "Windows"
_teams: "weakref.WeakSet[Team]" = weakref.WeakSet()


class Team:
    """`size` threads, the caller's among them, for one pass at a time.

    The other threads start with the first pass and end with the team. If one of them fails, or the
    caller is interrupted, nobody waits for it, and the next pass gets new threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._begin()
        _teams.add(self)

    def _begin(self) -> None:
        self._busy = threading.Lock()
        self._without_threads()

    def _without_threads(self) -> None:
        self._queues: list[SimpleQueue] = []
        self._threads: list[threading.Thread] = []
        self._meeting = np.zeros(2, np.int64)
        self._errors: list[BaseException] = []

    def run(self, work: Callable[[int, int, np.ndarray], None]) -> bool:
        """Call work(rank, size, meeting) once in each thread. Return whether that was possible: not
        if another pass is running, or if the system does not give more threads.

        Raises what `work` raises in any of the threads.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            if not self._threads:
                self._start()
            for rank, queue in enumerate(self._queues, 1):
                queue.put((work, rank, self.size, self._meeting, self._errors))
            work(0, self.size, self._meeting)
            if self._errors:
                raise self._errors[0]
        except _NoThreads:
            return False
        except BaseException:
            self._meeting[FAILED] = 1
            self._end()
            raise
        finally:
            self._busy.release()
        return True

    def _start(self) -> None:
        """Raises _NoThreads if the system does not give that many."""
        try:
            for _ in range(self.size - 1):
                queue = SimpleQueue()
                thread = threading.Thread(target=_serve, args=(queue,), daemon=True)
                thread.start()
                weakref.finalize(self, queue.put, None)
                self._queues.append(queue)
                self._threads.append(thread)
        except RuntimeError:
            self._end()
            raise _NoThreads from None

    def _end(self) -> None:
        """End the threads, and wait until they have written the last of a pass that failed."""
        for queue in self._queues:
            queue.put(None)
        for thread in self._threads:
            thread.join()
        self._without_threads()


class _NoThreads(Exception):
    """The system does not give more threads."""


def _serve(queue: SimpleQueue) -> None:
    while (call := queue.get()) is not None:
        work, rank, size, meeting, errors = call
        try:
            work(rank, size, meeting)
        except BaseException as error:
            errors.append(error)
            meeting[FAILED] = 1
        del work, meeting, errors, call  # the thread waits without holding arrays


def _begin_anew() -> None:
    """A copy of the process has none of its threads."""
    for team in list(_teams):
        team._begin()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)


@compiled
def share(count, rank, size):
    """Return the first of `count` things that belong to the thread `rank`, and the one after its
    last.
    """
    if size == 1:  # saves a small model's pass two divisions for each product
        return 0, count
    return count * rank // size, count * (rank + 1) // size


@compiled
def meet(meeting, size):
    """Wait until all threads are here, or one has failed."""
    if size == 1:
        return
    everybody = (_count_in(meeting) // size + 1) * size
    reads = 0
    while _number_at(meeting, ARRIVALS) < everybody and _number_at(meeting, FAILED) == 0:
        reads += 1
        _pause()
        if reads >= PATIENCE:
            reads = 0
            _yield()


@intrinsic
def _count_in(context, meeting):
    """Add 1 to meeting[ARRIVALS], as one step that no other thread divides. Return the number
    before.
    """

    def generate(context, builder, signature, arguments):
        pointer = _address(context, builder, signature, arguments[0])
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", pointer, one, "seq_cst")

    return types.int64(meeting), generate


@intrinsic
def _number_at(context, meeting, index):
    """Return meeting[index], read from memory each time."""

    def generate(context, builder, signature, arguments):
        pointer = _address(context, builder, signature, arguments[0])
        return builder.load_atomic(builder.gep(pointer, [arguments[1]]), "seq_cst", 8)

    return types.int64(meeting, types.intp), generate


def _address(context, builder, signature, array):
    return context.make_array(signature.args[0])(context, builder, array).data


@intrinsic
def _pause(context):
    """Tell the processor that this loop waits for another core."""

    def generate(context, builder, signature, arguments):
        if IS_X86:
            nothing = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, name), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _yield(context):
    """Let the operating system run another thread on this core."""

    def generate(context, builder, signature, arguments):
        if CAN_YIELD:
            number = ir.FunctionType(ir.IntType(32), [])
            name = "sched_yield"
            builder.call(cgutils.get_or_insert_function(builder.module, number, name), [])
        return context.get_dummy_value()

    return types.void(), generate
