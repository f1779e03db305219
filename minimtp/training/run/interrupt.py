"""Stopping a run without losing it.

The first Ctrl-C (or SIGTERM, or SIGHUP of a terminal that is closed) finishes the step and saves. A
second one stops immediately. A signal that the process was started to ignore stays ignored: `nohup`
does that with SIGHUP, and a shell does it with Ctrl-C for commands in the background.
"""

import signal
import threading
from pathlib import Path
from types import FrameType

from minimtp.training.run.mpirun import command_to_resume

SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # not on Windows
    SIGNALS.append(signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal stopped training, and a checkpoint was written. The message says how to resume.

    It is raised even if the run was already complete, so that the caller does not start its next
    task.
    """

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        self.folder, self.step = folder, step
        if step < steps:
            message = (
                f"stopped at step {step} of {steps}, saved in {folder}; "
                f"resume with: {command_to_resume(folder)}"
            )
        else:
            message = (
                f"stopped after the last step, {step} of {steps}: "
                f"the run is finished and saved in {folder}"
            )
        super().__init__(message)


class StopRequest:
    """A `with` block in which the first signal only sets `requested`.

    It changes nothing outside the main thread, because only that thread may handle signals.
    """

    def __init__(self) -> None:
        self.requested = False
        self._handlers: dict[int, object] = {}  # the handlers before the block

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None: a handler that was not installed by Python.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
