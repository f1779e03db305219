"""Finished measurements on disk, so that an interrupted comparison does not repeat them."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minimtp.files import write_text

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Figures = dict[str, Json]  # results by name


class ResultCache:
    """The finished parts of a measurement, in the file `path`, and the seconds spent on all of it.

    `setting` identifies the measurement. A file that is damaged or has another setting is ignored.
    """

    def __init__(self, path: Path, setting: Figures) -> None:
        self._path = path
        self._content = {"setting": as_json(setting), "parts": {}, "seconds": 0.0}
        try:
            found = json.loads(path.read_text())
            if found["setting"] == self._content["setting"]:
                self._content |= found
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no usable file, so measure again

    def get(self, part: str, measure: Callable[[], Figures]) -> Figures:
        """Return the results of `part`. If none are stored, call `measure` and store them."""
        if part not in self._content["parts"]:
            self._content["parts"][part] = without_nan(measure())
            self._write()
        return self._content["parts"][part]

    @property
    def seconds(self) -> float:
        """Seconds spent inside `counting`, over all sessions."""
        return self._content["seconds"]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Add the seconds of the `with` block, even if it is interrupted."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._content["seconds"] += time.perf_counter() - began
            self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._content))


def as_json(value: Figures) -> Figures:
    """Return the value as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))


def without_nan(value: Json) -> Json:
    """Replace NaN by None: JSON has no NaN. An acceptance without a single draft is NaN."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(member) for key, member in value.items()}
    return [without_nan(member) for member in value] if isinstance(value, list | tuple) else value
