"""Mutants: damaged copies of a file, made from a seed, and the check that a reader stands them.

`damaged_bytes` knows nothing of the format: flipped bits, cut and inserted bytes, swapped pieces.
`damaged_json` changes a parsed JSON value: other types, missing and unknown keys, huge numbers,
NaN, deep nesting, values of other keys. `must_be_refused_or_right` runs a reader on a mutant.

The same seed gives the same mutants.
"""

import json
import random
import re
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minimtp.errors import UserError

MAX_SENTENCE = 300
ODD_VALUES = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**20, 10**400,
    0.0, -0.5, 1.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"),
    "", "0", "nan", "\ud800", "\x00", "x" * 5000, "ü 猫", "../../etc/passwd",
    "int4-restricted-g" + "9" * 30,
    [], [[]], [None], [0] * 100, {}, {"": 0}, {"step": 1}, [1, "a", None, {}],
)  # fmt: skip


class TooSlow(BaseException):
    """The code under test took too long. No `except Exception` in it catches this."""


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return one mutant of the bytes."""
    change = rng.choice(BYTE_CHANGES)
    return change(bytearray(data), rng)


def _flip_bits(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.choice((0, 1, rng.randrange(len(data) + 1)))])


def _cut_the_beginning(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[rng.randrange(len(data) + 1) :])


def _insert(data: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    piece = rng.choice(
        (b"\xff", b"\x00", b"\n", b"[" * 100_000, b"NaN", b'"', b"{}", rng.randbytes(50))
    )
    return bytes(data[:at] + piece + data[at:])


def _overwrite(data: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    piece = rng.choice((b"\xff" * 8, b"\x00" * 64, rng.randbytes(16)))
    data[at : at + len(piece)] = piece[: max(0, len(data) - at)]
    return bytes(data)


def _remove(data: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice((1, 8, 100))]
    return bytes(data)


def _swap(data: bytearray, rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return bytes(data[:a] + data[b:c] + data[a:b] + data[c:])


def _repeat(data: bytearray, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return bytes(data[:b] + data[a:])


def _replace_all(data: bytearray, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\x00" * len(data), rng.randbytes(100), b"null", b"[" * 100_000))


BYTE_CHANGES = (
    _flip_bits, _flip_bits, _flip_bits, _cut, _cut, _cut_the_beginning, _insert, _insert,
    _overwrite, _remove, _swap, _repeat, _replace_all,
)  # fmt: skip


def damaged_json(value: object, rng: random.Random) -> object:
    """Return one mutant of a JSON value. The value itself does not change."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    if not places:
        return rng.choice(ODD_VALUES)
    container, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice(("unknown", "", "a.b[0]", "x" * 400, "\ud800"))] = container.pop(key)
    elif kind == 2:  # the value of another place
        other, other_key = rng.choice(places)
        container[key], other[other_key] = other[other_key], container[key]
    elif kind == 3:
        container[key] = f"nested {rng.choice((70, 100_000))} {rng.choice('[{')}"
    elif kind == 4 and isinstance(container[key], list | dict):
        container[key] = list(container[key]) if rng.random() < 0.5 else {}
    elif kind == 5 and isinstance(container[key], int | float):
        container[key] = rng.choice((-1, 0, 1, 2, 10, 1000, 0.5)) * container[key]
    else:
        container[key] = rng.choice(ODD_VALUES)
    if rng.random() < 0.02:
        return rng.choice(ODD_VALUES)
    return value


def json_bytes(value: object) -> bytes:
    """Return a mutant as JSON, also one that nests deeper than `json.dumps` could write."""

    def brackets(mark: re.Match) -> str:
        depth = int(mark[1])
        opening, closing = ("[", "]") if mark[2] == "[" else ('{"a":', "}")
        return f"{opening * depth}0{closing * depth}"

    return re.sub(r'"nested (\d+) ([\[{])"', brackets, json.dumps(value)).encode()


def _places(value: object) -> Iterator[tuple]:
    """Yield (container, key) for every value inside the value."""
    waiting = [value]
    while waiting:
        container = waiting.pop()
        keys = container if isinstance(container, dict) else range(len(container))
        if not isinstance(container, dict | list):
            continue
        for key in list(keys):
            yield container, key
            if isinstance(container[key], dict | list):
                waiting.append(container[key])


def must_be_refused_or_right(
    read: Callable[[], object],
    is_right: Callable[[object], bool] = lambda result: True,
    *,
    names: str | Path,
    seconds: float = 10.0,
    megabytes: float | None = None,
) -> bool:
    """Run a reader on a mutant. Return whether it refused the mutant.

    The only outcomes that pass are a result for which `is_right` is true, and a UserError of one
    sentence of at most 300 characters that contains `names` (a path counts as one character, so
    that the folder of the tests does not matter).
    seconds, megabytes: the most time, and the most memory of Python and NumPy, that it may take.
    """
    if megabytes is not None:
        tracemalloc.start()
    began = time.perf_counter()
    try:
        with time_limit(seconds):
            result = read()
        assert is_right(result), f"a mutant of {names} was read as {str(result)[:500]}"
        return False
    except UserError as error:
        check_sentence(str(error), names)
        return True
    finally:
        taken = time.perf_counter() - began
        if megabytes is not None:
            peak = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
            assert peak <= megabytes, f"a mutant of {names} took {peak:.0f} MB"
        assert taken <= seconds, f"a mutant of {names} took {taken:.1f} s"


def check_sentence(message: str, names: str | Path) -> None:
    """Check that a message is one sentence of at most 300 characters that contains `names`.

    A long path may have lost its middle.
    """
    is_named = str(names) in message or ("..." in message and Path(names).name in message)
    assert is_named, f"{message!r} does not name {names}"
    length = len(message.replace(str(names), "/") if str(names) else message)
    assert length <= MAX_SENTENCE, f"{length} characters: {message}"
    assert "\n" not in message and "Traceback" not in message, message


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the block after `seconds` (on POSIX systems, in the main thread)."""
    can_interrupt = hasattr(signal, "setitimer")
    if not can_interrupt or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise TooSlow(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
