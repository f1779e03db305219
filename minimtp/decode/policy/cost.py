"""c(T): what one pass of a target over T tokens costs, measured once and kept.

Speculative decoding trades passes for longer passes, so how much longer a pass over T tokens takes than one over a single
token decides whether it pays, and how far to draft. That cannot be known beforehand: it depends on the machine, on the
kernels, on the model's sizes and on how much text the cache holds. So it is measured, for T = 1, 2, 3, 4, 6, 8, 12, 16 (between
them the cost is taken to be linear), when a text first reaches a bucket of context lengths (up to 127, 511, 2047, ...). A
measurement feeds tokens behind the cached rows and forgets them again, so it can be taken in the middle of a text without
touching it. It takes the shortest of a few passes: whatever disturbs a machine only ever adds time.

The seconds are kept in memory and, for one `identity` (everything that the cost depends on), in a file of the cache folder:
$MINIMTP_CACHE, or else the system's place for such things. A file that is missing, damaged or out of reach costs a few
milliseconds of measuring, and is never an error.
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

MEASURED = (
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
)  # rows; a longer pass is taken to cost what the last two measured ones suggest
FIRST_BUCKET, BUCKET_GROWTH = 128, 4
PASSES, SECONDS = 7, 0.25  # of each length, and at most so long unless two passes take longer


class Costs:
    """The seconds of passes of `target`, by context bucket, for as many tokens as the longest draft makes: `most` + 1.

    identity: what the cost depends on, as JSON; None keeps nothing on the disk.
    """

    def __init__(
        self, target: Target, most: int, identity: dict[str, object] | None = None
    ) -> None:
        self._target, self._rows = target, most + 1
        self._path = (
            None if identity is None else _cache_folder() / f"cost-{_digest(identity)}.json"
        )
        self._identity = identity
        self._measured: dict[int, list[float]] = {}  # by bucket

    def of(self, target: Target) -> "Costs":
        """The same costs for another text: measured behind the rows of its `target`, a twin, and known to all."""
        other = copy(self)
        other._target = target
        return other

    def at(self, length: int) -> tuple[list[float], int]:
        """([seconds of a pass over 1, 2, ... tokens], the length at which they change), with `length` rows cached.

        Measures, with the target as it is now, what was never measured in this bucket; the target's rows stay as they are.
        Zeros where its context is full and nothing is known: no pass is to be planned there.
        """
        end = FIRST_BUCKET
        while end <= length:
            end *= BUCKET_GROWTH
        if len(self._measured.get(end, ())) < len(
            _with_room(self._target)
        ):  # or it was at the end of the context
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
        """What the file holds, by bucket; nothing where it cannot be used."""
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
    """Seconds of a pass over each of MEASURED tokens, as far as there is room for them, behind the rows that the target has."""
    length, lengths = target.length, _with_room(target)
    shortest = dict.fromkeys(lengths, float("inf"))
    started = perf_counter()
    for turn in range(
        1 + PASSES
    ):  # the first warms up; in turn, so that a slow moment does not fall on one length
        for rows in lengths:
            tokens = np.zeros(rows, np.int64)
            began = perf_counter()
            to_numpy(
                target.forward(tokens).logits[-1]
            )  # a GPU has finished when its numbers are here
            elapsed = perf_counter() - began
            target.truncate(length)
            if turn:
                shortest[rows] = min(shortest[rows], elapsed)
        if turn >= 2 and perf_counter() - started > SECONDS:
            break
    return [shortest[rows] for rows in lengths]


def _with_room(target: Target) -> list[int]:
    """Those of MEASURED that fit behind the rows that the target has."""
    return [rows for rows in MEASURED if rows <= target.context_length - target.length]


def _interpolated(seconds: list[float], rows: int) -> list[float]:
    """Seconds for 1 .. rows tokens from those for MEASURED ones; costs never fall with the length. Of none: zeros."""
    if not seconds:
        return [0.0] * rows
    rising, measured = np.maximum.accumulate(seconds), MEASURED[: len(seconds)]
    slope = (rising[-1] - rising[-2]) / (measured[-1] - measured[-2]) if len(measured) > 1 else 0.0
    wanted = np.arange(1, rows + 1)
    return (
        np.interp(wanted, measured, rising) + slope * np.maximum(wanted - measured[-1], 0)
    ).tolist()


def _cache_folder() -> Path:
    """Where this user's programs keep what can be made again."""
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
