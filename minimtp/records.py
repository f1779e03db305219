"""The one reader of the JSON that minimtp reads back: checkpoints, recipes, logs, results, caches.

**Problem.** A file on disk may be cut, edited or hostile. Code that indexes whatever `json.loads`
returns fails far from the cause, with an error that names neither the file nor the key.

**Idea.** Every kind of file declares its *schema*: a msgspec Struct (or any type that msgspec
knows) with types and ranges. The reader checks, in this order: the size of the file against a
limit, UTF-8, JSON, the depth of the brackets, and the schema. Each failure is a UserError of one
sentence: the file, the key, what was found, and what to do.

    class Result(Struct):
        steps: Count                     # a whole number of at least 0
        seconds: NonNegative             # neither NaN nor infinite
    result = read_json(path, Result, advice="delete it to measure again")
    # raises UserError: compare.json: seconds is "fast", but must be a number: delete it to ...

Keys that the schema does not declare are ignored, so that a later version may add some, unless the
Struct has `forbid_unknown_fields`. A cache is read by `read_cache`, which never fails: it says in
one line why the file is of no use, and returns None.

Python's parser is used, because msgspec's own refuses text that a path can contain (undecodable
bytes, which Python stores as lone surrogates). msgspec only checks the parsed values.
"""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from minimtp.errors import UserError, shown
from minimtp.files import advice_to_read, kind_at, reason_for

MAX_BYTES = 16 * 2**20  # of a JSON file, unless the caller states another limit
MAX_NESTING = 64  # brackets inside brackets

MAX_INT = 2**63 - 1
MAX_FLOAT = sys.float_info.max

# Types for schemas. A plain `float` also accepts NaN and the infinities.
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
Positive = Annotated[int, Meta(ge=1, le=MAX_INT)]
Finite = Annotated[float, Meta(ge=-MAX_FLOAT, le=MAX_FLOAT)]
NonNegative = Annotated[float, Meta(ge=0, le=MAX_FLOAT)]
AboveZero = Annotated[float, Meta(gt=0, le=MAX_FLOAT)]

T = TypeVar("T")


def read_json(path: str | Path, schema: type[T], *, advice: str, max_bytes: int = MAX_BYTES) -> T:
    """Return the content of a JSON file, checked against the schema.

    advice: what the user can do about a damaged file; it ends every message.
    max_bytes: the largest file that is read.

    Raises UserError if the file cannot be read or does not have the form of the schema.
    """
    return decode_json(read_file(path, advice=advice, max_bytes=max_bytes), schema, path, advice)


def read_cache(
    path: str | Path,
    schema: type[T],
    *,
    max_bytes: int = MAX_BYTES,
    report: Callable[[str], None] | None = None,
) -> T | None:
    """Return the content of a file of measurements, or None if it is missing or damaged.

    report: called with a line that says why the file is not used (None: standard error).
    """
    try:
        if kind_at(path) == "nothing":
            return None
        return read_json(path, schema, advice="it is measured again", max_bytes=max_bytes)
    except UserError as damage:
        (report or notice)(str(damage))
        return None


def read_file(path: str | Path, *, advice: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file. Raises UserError if it is missing or too large."""
    kind = kind_at(path)
    if kind != "file":
        found = {"nothing": "does not exist", "folder": "is a folder"}.get(kind, "is not a file")
        raise UserError(f"{path} {found}: {advice}")
    try:
        with open(path, "rb") as file:
            # `read` allocates as much as it is allowed to, so no more than the file holds.
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, max_bytes) + 1)
    except OSError as error:
        remedy = advice_to_read(error, advice)
        raise UserError(f"{path} cannot be read ({reason_for(error)}): {remedy}") from None
    if len(data) > max_bytes:
        raise UserError(f"{path} has more than {max_bytes:,} bytes: {advice}")
    return data


def decode_json(data: bytes | str, schema: type[T], source: str | Path, advice: str) -> T:
    """Return the value of a JSON text, checked against the schema.

    source: the file that the text comes from, which begins every message.
    Raises UserError if the text does not have the form of the schema.
    """
    return check_value(parse_json(data, source, advice), schema, source, advice)


def parse_json(data: bytes | str, source: str | Path, advice: str) -> Any:
    """Return the value of a JSON text of any form. NaN and infinities are accepted here.

    Raises UserError if the text is not UTF-8 or not JSON, or nests brackets too deeply.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        if not text.strip():
            raise UserError(f"{source} is empty: {advice}")
        value = json.loads(text)
        too_deep = _is_deeper_than(MAX_NESTING, value)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source} is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}): {advice}"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{source} is not valid JSON at line {error.lineno}, column {error.colno}: {advice}"
        ) from None
    except ValueError:  # Python converts no longer ones
        raise UserError(f"{source} has a number of thousands of digits: {advice}") from None
    except RecursionError:
        too_deep = True
    if too_deep:
        raise UserError(f"{source} nests brackets more than {MAX_NESTING} deep: {advice}")
    return value


def check_value(value: Any, schema: type[T], source: str | Path, advice: str) -> T:
    """Return parsed JSON as the schema declares it. Raises UserError if it has another form."""
    try:
        return msgspec.convert(value, schema)
    except msgspec.ValidationError as error:
        fault = _Fault(value, schema, str(error))
        raise UserError(f"{source}: {fault.describe()}: {advice}") from None
    except UnicodeEncodeError:  # a lone surrogate where something else than text is declared
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
        check_value(json.loads(text), schema, source, advice)  # finds the place of the fault
        raise UserError(f"{source}: a key is not valid Unicode: {advice}") from None


def notice(sentence: str) -> None:
    """Print a line about something that does not stop the command, to standard error."""
    if sys.stderr is not None:
        print(f"minimtp: {sentence}", file=sys.stderr)


def without_nan(value: Any) -> Any:
    """Return the value with None for every float that JSON cannot hold: NaN and the infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(member) for key, member in value.items()}
    return [without_nan(member) for member in value] if isinstance(value, list | tuple) else value


def _is_deeper_than(limit: int, value: Any) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [member for container in level for member in _containers_in(container)]
        if not level:
            return False
    return True


def _containers_in(value: Any) -> list:
    members = value.values() if isinstance(value, dict) else value if type(value) is list else ()
    return [member for member in members if isinstance(member, dict | list)]


WORDS = {  # for msgspec's names of types
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
COMPARISONS = {">=": "of at least", "<=": "of at most", ">": "of more than", "<": "below"}


class _Fault:
    """The first fault that msgspec found, in words.

    msgspec describes it as "Expected `int`, got `str` - at `$.cells[3].seconds`" or "Object missing
    required field `seconds` - at `$.cells[...]`". Dots in brackets stand for some key of a
    dictionary. This key is found by checking a part of them at a time.
    """

    def __init__(self, value: Any, schema: type, message: str) -> None:
        self.text, _, place = message.partition(" - at ")
        path = [
            name or (... if index == "..." else int(index))
            for index, name in re.findall(r"\[(\d+|\.\.\.)\]|\.(\w+)", place)
        ]
        if "unknown field" in self.text:  # the name of this field could imitate a place
            path = []
        for position, step in enumerate(path):
            if step is ...:
                key = path[position] = _key_at_fault(value, path[:position], schema)
                alone = {key: _member(value, path[: position + 1])}
                value = _replaced(value, path[:position], alone)
        self.found = _member(value, path)
        self.key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")

    def describe(self) -> str:
        field = re.search(r"field `(.*?)`?$", self.text, re.DOTALL)
        if field:
            key = shown(".".join(filter(None, (self.key, field[1]))), 60)
            return f"{key} is missing" if "missing" in self.text else f"the key {key} is unknown"
        subject = f"{shown(self.key, 60)} is" if self.key else "the file holds"
        return f"{subject} {_in_words(self.found)}, but must be {self._expected()}"

    def _expected(self) -> str:
        match = re.match(r"Expected `([^`]*)`(.*)", self.text)
        if "matching regex" in self.text:
            return "text of another form"
        if match is None:  # a number out of range, or a word that is not among the allowed ones
            return "a smaller number" if "range" in self.text else "one of the known values"
        types = " or ".join(WORDS.get(name, name) for name in match[1].split(" | "))
        rest = match[2].split(", got ")[0].replace("`", "")
        if str(MAX_FLOAT) in rest:
            return "a finite number"
        for sign, words in COMPARISONS.items():
            rest = rest.replace(f" {sign} ", f" {words} ").replace("length of", "length")
        return shown(types + rest.removesuffix(".0"), 80)


def _key_at_fault(value: Any, path: list, schema: type) -> str:
    """Return the first key of the dictionary at `path` that makes the value invalid."""
    whole = _member(value, path)
    keys = list(whole)
    while len(keys) > 1:
        first = keys[: len(keys) // 2]
        try:
            msgspec.convert(_replaced(value, path, {key: whole[key] for key in first}), schema)
            keys = keys[len(first) :]
        except msgspec.ValidationError:
            keys = first
    return keys[0]


def _member(value: Any, path: list) -> Any:
    for step in path:
        value = value[step] if isinstance(value, list) else value.get(step)
    return value


def _replaced(value: Any, path: list, new: Any) -> Any:
    """Return the value with the member at `path` replaced, without changing the value."""
    if not path:
        return new
    changed = value.copy()
    changed[path[0]] = _replaced(value[path[0]], path[1:], new)
    return changed


def _in_words(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    return shown(json.dumps(value), 40)


def lines_of(path: str | Path, max_bytes: int) -> Iterator[bytes | None]:
    """Yield the lines of a file without their ends; None for a line of more than `max_bytes`.

    A line that is too long is skipped without being held in memory.
    """
    with open(path, "rb") as file:
        while line := file.readline(max_bytes + 1):
            if len(line) <= max_bytes:
                yield line.rstrip(b"\r\n")
                continue
            while not line.endswith(b"\n") and (line := file.readline(max_bytes)):
                pass
            yield None
