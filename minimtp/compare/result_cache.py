"""Finished measurements on disk, so that an interrupted comparison does not repeat them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minimtp.compare.schema import Cache
from minimtp.errors import UserError
from minimtp.files import FileKind, set_aside, write_text
from minimtp.records import check_value, notice, read_cache, without_nan

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Figures = dict[str, Json]  # results by name
GetPart = Callable[[str, Callable[[], Figures], type], Figures]  # see ResultCache.get
CACHE = FileKind("an unfinished measurement", begins=b'{"setting":')


class ResultCache:
    """The finished parts of a measurement, in the file `path`, and the seconds spent on all of it.

    `setting` identifies the measurement. A file with another setting is ignored. A damaged file, or
    a damaged part, costs one line for `report` and is measured again.
    """

    def __init__(
        self, path: Path, setting: Figures, report: Callable[[str], None] = notice
    ) -> None:
        self._path, self._report = path, report
        self._content = {"setting": as_json(setting), "parts": {}, "seconds": 0.0}
        found = read_cache(path, Cache, report=report)
        set_aside(path, CACHE, silent=True)
        if found is not None and found.setting == self._content["setting"]:
            self._content |= {"parts": found.parts, "seconds": found.seconds}

    def get(self, part: str, measure: Callable[[], Figures], schema: type) -> Figures:
        """Return the results of `part`. If none are stored, call `measure` and store them.

        schema: the form of the results (schema.py).
        """
        parts = self._content["parts"]
        if part in parts:
            try:
                check_value(parts[part], schema, self._path, f"{part} is measured again")
                return parts[part]
            except UserError as damage:
                self._report(str(damage))
        parts[part] = without_nan(measure())
        self._write()
        return parts[part]

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
        write_text(self._path, json.dumps(self._content), CACHE)


def as_json(value: Figures) -> Figures:
    """Return the value as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))
