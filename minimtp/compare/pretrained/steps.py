"""The steps of a comparison: how long each took and how much memory it needed, over all sessions.

A step that was interrupted goes on in the next session, and its seconds add up.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from minimtp import machine
from minimtp.backend import return_freed_memory
from minimtp.files import FileKind, write_text
from minimtp.records import NonNegative, read_cache

FILE_NAME = "steps.json"
STEPS = FileKind("the steps of a comparison", begins=b'{"seconds":')


class StepFile(Struct):
    """The content of steps.json, by name of the step."""

    seconds: dict[str, NonNegative]
    peak_memory_bytes: dict[str, NonNegative]


class Steps:
    """The steps of the comparison in `folder`. report: receives a line when a step begins."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._path, self._report = folder / FILE_NAME, report
        found = read_cache(self._path, StepFile, report=report)
        self.seconds: dict[str, float] = dict(found.seconds) if found else {}
        self.peak_memory_bytes: dict[str, int] = dict(found.peak_memory_bytes) if found else {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the `with` block as the step `name`, even if it is interrupted."""
        self._report(f"{name:<24} after {sum(self.seconds.values()):,.0f} s")
        return_freed_memory()  # of the previous step, which this one's peak would include
        machine.reset_peak_memory()
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            peak = machine.peak_memory_bytes()
            if peak is not None:
                self.peak_memory_bytes[name] = max(peak, self.peak_memory_bytes.get(name, 0))
            content = {"seconds": self.seconds, "peak_memory_bytes": self.peak_memory_bytes}
            write_text(self._path, json.dumps(content), STEPS)
