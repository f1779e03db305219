"""Stopping a run without losing it: the first Ctrl-C (or SIGTERM) finishes the step and saves, a second one stops at once."""

import signal
import threading
from pathlib import Path
from types import FrameType

from minimtp.training.distributed import command_to_resume

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after its checkpoint was written; the message says how to go on.

    A run that was finished by then is stopped too: what was to come after it does not begin.
    """

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        self.folder, self.step = folder, step
        if step < steps:
            how = f"stopped at step {step} of {steps}, saved in {folder}; go on with: {command_to_resume(folder)}"
        else:
            how = f"stopped after the last step, {step} of {steps}: the run is finished and saved in {folder}"
        super().__init__(how)


class StopRequest:
    """Within the `with` block, the first signal only sets `asked`. Elsewhere than in the main thread it does nothing."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
