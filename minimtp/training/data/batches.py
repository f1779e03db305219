"""The batches of a run. On a GPU, the next one is prepared while the device computes.

On a GPU, a thread prepares the next batch and copies it to the device on its own stream, while the
host waits for the current step. Without it, the GPU would have to wait for its next batch. On the
CPU, a step uses all cores, and a batch is prepared when it is needed. A batch is a pure function of
its step, so both ways train the same model.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from minimtp.backend import Array, Device
from minimtp.backend import numpy as np


class Batches:
    """The batches of a run, on the device.

    make: returns the batch (B, T + 1 + K) int64 of a step.
    last: the step from which on no batch is needed.
    """

    def __init__(self, make: Callable[[int], np.ndarray], device: Device, last: int) -> None:
        self._make, self._last = make, last
        self._xp = None if device.name == "cpu" else device.xp
        self._next: dict[int, Future] = {}
        if self._xp is not None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
            # A new thread begins on the first GPU, but this process may use another one.
            self._gpu = self._xp.cuda.Device().id
            self._stream = self._xp.cuda.Stream(non_blocking=True)

    def at(self, step: int) -> Array:
        """Return the batch of a step. Raises the error that occurred while it was prepared."""
        if self._xp is None:
            return self._make(step)
        batch = self._next.pop(step, None) or self._thread.submit(self._on_the_device, step)
        if step + 1 < self._last:
            self._next = {step + 1: self._thread.submit(self._on_the_device, step + 1)}
        return batch.result()

    def close(self) -> None:
        """End the thread."""
        if self._xp is not None:
            self._thread.shutdown(cancel_futures=True)

    def _on_the_device(self, step: int) -> Array:
        # The copy is complete before the array is returned. Its memory is reused for a later batch
        # only after this one is released, when a step has read its losses: no kernel reads it then.
        with self._xp.cuda.Device(self._gpu), self._stream:
            batch = self._xp.asarray(self._make(step))
            self._stream.synchronize()
        return batch
