"""c(n): how long a pass of a target over n tokens takes. It is measured once and kept.

**Problem.** Speculative decoding replaces many short passes by fewer longer ones. Whether that pays
depends on how much longer a pass over n tokens takes than a pass over one. This depends on the
machine, the kernels, the model's size and the number of cached rows, so no formula gives it.

**Idea.** Measure it when a text first reaches a bucket of context lengths: up to 127 rows, 511,
2047, and so on. n is 1, 2, 3, 4, 6, 8, 12 and 16; between these, c is interpolated linearly. A
measurement feeds tokens after the cached rows and then truncates the cache, so it does not disturb
the text. Each n counts its shortest pass, because other work on the machine only makes a pass
longer.

**Where it is kept.** In memory, and in a file of the cache folder: $MINIMTP_CACHE, or else the
system's own cache folder. The file belongs to one `identity`, which names everything that the cost
depends on. A missing, damaged or unwritable file is no error: the cost is measured again, in a few
milliseconds.
"""

import contextlib
import hashlib
import json
import os
import sys
from copy import copy
from pathlib import Path
from time import perf_counter

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.target import Target
from minimtp.errors import UserError
from minimtp.files import make_folder, write_text

MEASURED = (1, 2, 3, 4, 6, 8, 12, 16)  # tokens; longer passes are extrapolated from the last two
FIRST_BUCKET, BUCKET_GROWTH = 128, 4  # rows
PASSES = 7  # over each number of tokens
SECONDS = 0.25  # then two passes are enough


class Costs:
    """Seconds of a pass of `target` over 1 .. max_drafts + 1 tokens, by context bucket.

    identity: everything that the cost depends on, as JSON. None writes no file.
    """

    def __init__(
        self, target: Target, max_drafts: int, identity: dict[str, object] | None = None
    ) -> None:
        self._target, self._rows = target, max_drafts + 1
        self._path = (
            None if identity is None else _cache_folder() / f"cost-{_digest(identity)}.json"
        )
        self._identity = identity
        self._measured: dict[int, list[float]] = {}  # by bucket

    def of(self, target: Target) -> "Costs":
        """Return the same costs, measured on `target`, a clone, and shared by all clones."""
        other = copy(self)
        other._target = target
        return other

    def at(self, length: int) -> tuple[list[float], int]:
        """Return (seconds of passes over 1, 2, ... tokens, the length at which they change).

        `length` rows are cached. Measures a new bucket with the target as it is now; the cached
        rows stay. Returns zeros if the context is full and the bucket was never measured: no pass
        will be planned there.
        """
        end = FIRST_BUCKET
        while end <= length:
            end *= BUCKET_GROWTH
        # Near the end of a context only short passes have room. Measure again when more have.
        if len(self._measured.get(end, ())) < len(_with_room(self._target)):
            self._measured[end] = seconds = self._stored().get(str(end)) or measure(self._target)
            if len(seconds) == len(MEASURED):
                self._store(end, seconds)
        return _interpolated(self._measured.get(end, []), self._rows), end

    def _store(self, end: int, seconds: list[float]) -> None:
        stored = self._stored()
        if self._path is not None and str(end) not in stored:
            content = {"identity": self._identity, "seconds": stored | {str(end): seconds}}
            with contextlib.suppress(UserError):  # an unwritable folder is ignored
                make_folder(self._path.parent)
                write_text(self._path, json.dumps(content), shared=True)

    def _stored(self) -> dict[str, list[float]]:
        """Return what the file holds, by bucket: nothing if the file cannot be used."""
        if self._path is None:
            return {}
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            usable = stored["identity"] == self._identity
            found = (
                {end: [float(s) for s in seconds] for end, seconds in stored["seconds"].items()}
                if usable
                else {}
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return {
            end: seconds
            for end, seconds in found.items()
            if len(seconds) == len(MEASURED) and min(seconds) > 0
        }


def measure(target: Target) -> list[float]:
    """Return seconds of passes over those of MEASURED tokens that have room."""
    length, lengths = target.length, _with_room(target)
    shortest = dict.fromkeys(lengths, float("inf"))
    started = perf_counter()
    for turn in range(
        1 + PASSES
    ):  # the first warms up; lengths take turns, so that a slow moment hits all of them
        for rows in lengths:
            tokens = np.zeros(rows, np.int64)
            began = perf_counter()
            to_numpy(target.forward(tokens).logits[-1])  # waits until a GPU has finished
            elapsed = perf_counter() - began
            target.truncate(length)
            if turn:
                shortest[rows] = min(shortest[rows], elapsed)
        if turn >= 2 and perf_counter() - started > SECONDS:
            break
    return [shortest[rows] for rows in lengths]


def _with_room(target: Target) -> list[int]:
    """Return those of MEASURED that have room after the target's rows."""
    return [rows for rows in MEASURED if rows <= target.context_length - target.length]


def _interpolated(seconds: list[float], rows: int) -> list[float]:
    """Return seconds for 1 .. rows tokens, never falling; without any measured ones, zeros."""
    if not seconds:
        return [0.0] * rows
    rising, measured = np.maximum.accumulate(seconds), MEASURED[: len(seconds)]
    slope = (rising[-1] - rising[-2]) / (measured[-1] - measured[-2]) if len(measured) > 1 else 0.0
    wanted = np.arange(1, rows + 1)
    return (
        np.interp(wanted, measured, rising) + slope * np.maximum(wanted - measured[-1], 0)
    ).tolist()


def _cache_folder() -> Path:
    """Return the folder for files that can be made again."""
    if chosen := os.environ.get("MINIMTP_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
            / "minimtp"
            / "cache"
        )
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minimtp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minimtp"


def _digest(identity: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
