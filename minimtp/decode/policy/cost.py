"""Measure c(n), the time of a forward pass of a target over n tokens, and store it.

**Problem.** Speculative decoding replaces many short forward passes by fewer longer ones. Whether
this is faster depends on how much longer a pass over n tokens takes than a pass over one. That
depends on the machine, the kernels, the size of the model and the number of cached rows, so no
formula gives it.

**Idea.** Measure c(n) when a sequence first reaches a bucket of context lengths: up to 127 rows,
511, 2047, and so on. Measure n = 1, 2, 3, 4, 6, 8, 12 and 16, and interpolate linearly between
them. Each measured pass feeds tokens after the cached rows, and then the cache is truncated, so the
sequence does not change. For each n only the shortest pass counts, because other work on the
machine can only make a pass longer.

**Storage.** The times stay in memory and in a file of the cache folder: $MINIMTP_CACHE if it is
set, otherwise the cache folder of the operating system. Each file belongs to one `identity`, which
names everything that the times depend on. If it is missing, damaged or unwritable, the times are
measured again, which takes a few milliseconds. A damaged file costs one line of output.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from time import perf_counter
from typing import Annotated

from msgspec import Meta, Struct

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.target import Target
from minimtp.errors import UserError
from minimtp.files import FileKind, write_text
from minimtp.records import notice, read_cache

MEASURED = (1, 2, 3, 4, 6, 8, 12, 16)  # tokens; beyond them c(n) is extrapolated linearly
FIRST_BUCKET = 128  # rows at which the first bucket ends
BUCKET_GROWTH = 4  # each bucket ends at this multiple of the end of the one before it
MAX_REPEATS = 7  # passes over each number of tokens, after a warm-up
COSTS = FileKind("a file of costs")  # the folder is minimtp's own, so any file may be replaced
MAX_SECONDS = 0.25  # after this time, two repeats are enough
SHORTEST, LONGEST = 1e-9, 3600.0  # seconds that a file may hold
MAX_FILE_BYTES = 2**20


class CostFile(Struct):
    """The content of a file. seconds: of the passes over MEASURED, by end of the bucket."""

    identity: dict[str, object]
    seconds: dict[
        str,
        Annotated[
            list[Annotated[float, Meta(ge=SHORTEST, le=LONGEST)]],
            Meta(min_length=len(MEASURED), max_length=len(MEASURED)),
        ],
    ]


class Costs:
    """Seconds of a forward pass of `target` over 1 .. max_drafts + 1 tokens, by context bucket.

    identity: everything that the times depend on, as JSON values. None stores no file.
    """

    def __init__(
        self, target: Target, max_drafts: int, identity: Mapping[str, object] | None = None
    ) -> None:
        self._target = target
        self._max_tokens = max_drafts + 1
        self._identity = identity
        self._path: Path | None = None
        if identity is not None:
            folder = _cache_folder()
            self._path = folder and folder / f"cost-{_digest(identity)}.json"
        self._measured: dict[int, list[float]] = {}  # seconds for MEASURED, by end of the bucket

    def of(self, target: Target) -> "Costs":
        """Return costs that measure on `target`, a clone, and share all their results with this
        object.
        """
        other = copy(self)
        other._target = target
        return other

    def at(self, length: int) -> tuple[list[float], int]:
        """Return (seconds of passes over 1, 2, ... tokens, end of the bucket of `length`).

        length: number of cached rows. The seconds hold until the cache has as many rows as the end
        of the bucket. Measures a new bucket on the target as it is, without changing the cached
        rows. If the context is full and the bucket was never measured, all seconds are 0. That is
        harmless, because no further pass can be planned.
        """
        end = FIRST_BUCKET
        while end <= length:
            end *= BUCKET_GROWTH
        # Near the end of a context only short passes fit. Measure again when longer ones fit.
        if len(self._measured.get(end, ())) < len(_fitting(self._target)):
            seconds = self._read_file(notice).get(str(end)) or measure(self._target)
            self._measured[end] = seconds
            if len(seconds) == len(MEASURED):
                self._add_to_file(end, seconds)
        return _interpolated(self._measured.get(end, []), self._max_tokens), end

    def _read_file(self, report: Callable[[str], None]) -> dict[str, list[float]]:
        """Return the seconds in the file by end of the bucket; {} if the file is not usable."""
        if self._path is None:
            return {}
        found = read_cache(self._path, CostFile, max_bytes=MAX_FILE_BYTES, report=report)
        return found.seconds if found and found.identity == self._identity else {}

    def _add_to_file(self, end: int, seconds: list[float]) -> None:
        buckets = self._read_file(lambda line: None)
        if self._path is None or str(end) in buckets or min(seconds) < SHORTEST:
            return
        content = {"identity": self._identity, "seconds": buckets | {str(end): seconds}}
        with contextlib.suppress(UserError):  # an unwritable folder is ignored
            write_text(self._path, json.dumps(content), COSTS)


def measure(target: Target) -> list[float]:
    """Return the seconds of the passes over MEASURED tokens, as far as they fit the context."""
    length, fitting = target.length, _fitting(target)
    shortest = dict.fromkeys(fitting, float("inf"))
    started = perf_counter()
    # The numbers of tokens alternate, so that a slow moment affects all of them alike.
    for repeat in range(1 + MAX_REPEATS):
        for num_tokens in fitting:
            tokens = np.zeros(num_tokens, np.int64)
            began = perf_counter()
            to_numpy(target.forward(tokens).logits[-1])  # waits until a GPU has finished
            elapsed = perf_counter() - began
            target.truncate(length)
            if repeat:  # the first one is the warm-up
                shortest[num_tokens] = min(shortest[num_tokens], elapsed)
        if repeat >= 2 and perf_counter() - started > MAX_SECONDS:
            break
    return [shortest[num_tokens] for num_tokens in fitting]


def _fitting(target: Target) -> list[int]:
    """Return the numbers of MEASURED that fit the context after the cached rows."""
    return [number for number in MEASURED if number <= target.context_length - target.length]


def _interpolated(seconds: list[float], max_tokens: int) -> list[float]:
    """Return the seconds for 1 .. max_tokens tokens, which never decrease.

    seconds: the seconds for the first numbers in MEASURED. If it is empty, the result is all zeros.
    """
    if not seconds:
        return [0.0] * max_tokens
    rising, measured = np.maximum.accumulate(seconds), MEASURED[: len(seconds)]
    slope = 0.0
    if len(measured) > 1:
        slope = (rising[-1] - rising[-2]) / (measured[-1] - measured[-2])
    wanted = np.arange(1, max_tokens + 1)
    beyond = np.maximum(wanted - measured[-1], 0)
    return (np.interp(wanted, measured, rising) + slope * beyond).tolist()


def _cache_folder() -> Path | None:
    """Return the folder for files that can be generated again, None if this user has no home."""
    if chosen := os.environ.get("MINIMTP_CACHE"):
        return Path(chosen)
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
            return Path(local) / "minimtp" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "minimtp"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minimtp"
    except RuntimeError:  # there is no $HOME, and the system does not know the user
        return None


def _digest(identity: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
