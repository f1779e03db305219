"""The batches of a run, the next one prepared while the device works on this one.

On a GPU the host waits for most of a step, and then the GPU for its text. So a thread draws the next batch and copies it there
on a stream of its own, beside the step that is under way. On the CPU a step has all the cores, and a batch is drawn when it is
asked for. A batch is a pure function of its step, so neither can change what is trained.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from minimtp.backend import Array, Device
from minimtp.backend import numpy as np


class Batches:
    """`at(step)` is make(step), (B, T + 1 + K) int64, on the device. `last`: no batch is prepared from this step on."""

    def __init__(self, make: Callable[[int], np.ndarray], device: Device, last: int) -> None:
        self._make, self._last = make, last
        self._xp = None if device.name == "cpu" else device.xp
        self._coming: dict[int, Future] = {}
        if self._xp is not None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
            self._gpu = (
                self._xp.cuda.Device().id
            )  # a thread begins on the first one, whichever this process uses
            self._stream = self._xp.cuda.Stream(non_blocking=True)

    def at(self, step: int) -> Array:
        """The batch of a step. What went wrong while it was prepared is raised here."""
        if self._xp is None:
            return self._make(step)
        coming = self._coming.pop(step, None) or self._thread.submit(self._on_the_device, step)
        if step + 1 < self._last:
            self._coming = {step + 1: self._thread.submit(self._on_the_device, step + 1)}
        return coming.result()

    def close(self) -> None:
        """End the thread."""
        if self._xp is not None:
            self._thread.shutdown(cancel_futures=True)

    def _on_the_device(self, step: int) -> Array:
        # The copy has ended before anybody gets the array. Its memory is given to a later batch only once this one is let go,
        # after a step has read its losses: then no kernel reads it any more.
        with self._xp.cuda.Device(self._gpu), self._stream:
            batch = self._xp.asarray(self._make(step))
            self._stream.synchronize()
        return batch
