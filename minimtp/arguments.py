"""Checks of the arguments of public functions: the right type, or one sentence that says what is
wrong.

Each public function names a kind for each of its parameters, and each public dataclass for each of
its fields:

    @checked_arguments(path=PATH, seed=whole(0, 2**64 - 1))
    def train(path, seed=0): ...

A kind is a function (name, value) -> value. It returns the value in the form that the code works
with: an int for np.int64(3), a Path for "runs/mine". If that is impossible, it raises UserError,
which names the argument, the value and what is expected. So the code behind the check deals with
one form of each value only. What depends on several arguments is checked there.
"""

import functools
import inspect
import itertools
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from minimtp.errors import UserError, shown, utf8

Kind = Callable[[str, Any], Any]
Parameters, Result = ParamSpec("Parameters"), TypeVar("Result")

MAX_QUOTED = 60  # characters of a value in a message
MAX_PARTS = 1_000_000  # values of a list: an iterable may never end


def checked_arguments(
    **kinds: Kind,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorate a function so that its arguments have these kinds. Defaults are not checked.

    Raises TypeError if a parameter has no kind, or a kind no parameter.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(function)
        if signature.parameters.keys() - {"self"} != kinds.keys():
            raise TypeError(f"{function.__qualname__}: one kind per parameter is needed")

        @functools.wraps(function)
        def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            given = signature.bind(*args, **kwargs)
            for name, value in given.arguments.items():
                if name in kinds:
                    given.arguments[name] = kinds[name](name, value)
            return function(*given.args, **given.kwargs)

        return checked

    return decorate


def check_fields(instance: object, **kinds: Kind) -> None:
    """Check and convert fields of a frozen dataclass, from its `__post_init__`."""
    for name, kind in kinds.items():
        object.__setattr__(instance, name, kind(name, getattr(instance, name)))


def refuse(name: str, expected: str, value: object) -> NoReturn:
    """Raise the UserError of an argument that cannot be used."""
    raise UserError(f"{name} must be {expected}, not {quoted(value)}")


def quoted(value: object) -> str:
    """Return the value for a message, in one line of at most MAX_QUOTED characters."""
    try:
        text = _described(value)
    except Exception:  # of a caller's class, or a number with more than 4300 digits
        text = ""
    return shown(text, MAX_QUOTED) or f"an object of type {type(value).__name__}"


def _described(value: object) -> str:
    if isinstance(value, (type, type(os))) or hasattr(value, "__qualname__"):
        return f"the {type(value).__name__} {getattr(value, '__name__', '?')}"
    if (shape := getattr(value, "shape", None)) and isinstance(shape, tuple):
        return f"an array of shape {shape} and type {getattr(value, 'dtype', '?')}"
    text = repr(value)
    return "" if text.startswith("<") else text  # such as <object object at 0x7f...>


# What a value is. Each function returns None if it is something else.


def as_whole(value: object) -> int | None:
    """Return a whole number of Python or NumPy, or an array of no dimensions that holds one."""
    if as_flag(value) is not None:
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def as_number(value: object) -> float | None:
    """Return a real number of Python or NumPy, or an array of no dimensions that holds one."""
    whole = as_whole(value)
    if whole is None:
        if as_flag(value) is not None:
            return None
        if not (_is_scalar(value, "f") or _is_real(value)):
            return None
    try:
        return float(value if whole is None else whole)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not hasattr(value, "mask")


def as_flag(value: object) -> bool | None:
    """Return True or False of Python or NumPy."""
    return bool(value) if isinstance(value, bool) or _is_scalar(value, "b") else None


def _is_scalar(value: object, kind: str) -> bool:
    """Return whether the value is a NumPy scalar, or an array of no dimensions, of this kind."""
    dtype = getattr(value, "dtype", None)
    is_masked = hasattr(value, "mask")  # numpy.ma.masked is not a number
    return getattr(dtype, "kind", None) == kind and value.shape == () and not is_masked


# Kinds.


def whole(low: int, high: int | None = None, meaning: str = "") -> Kind:
    """A whole number from `low` to `high`. meaning: of a special value, for the message."""
    limits = f"of at least {low}" if high is None else f"from {low} to {_power(high)}"
    expected = f"a whole number {limits}{f' ({meaning})' if meaning else ''}"

    def kind(name: str, value: object) -> int:
        found = as_whole(value)
        if found is None or found < low or (high is not None and found > high):
            refuse(name, expected, value)
        return found

    return kind


def _power(number: int) -> str:
    return f"2^{number.bit_length()} - 1" if number > 2**31 else str(number)


def number(expected: str, allowed: Callable[[float], bool]) -> Kind:
    """A number for which `allowed` is true. NaN never is."""

    def kind(name: str, value: object) -> float:
        found = as_number(value)
        if found is None or math.isnan(found) or not allowed(found):
            refuse(name, expected, value)
        return found

    return kind


def FLAG(name: str, value: object) -> bool:
    found = as_flag(value)
    if found is None:
        refuse(name, "True or False", value)
    return found


def WORD(name: str, value: object) -> str:
    if not isinstance(value, str):
        refuse(name, "a word", value)
    return str(value)


def one_of(*words: str) -> Kind:
    def kind(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in words:
            refuse(name, f"one of {', '.join(words)}", value)
        return str(value)

    return kind


def PATH(name: str, value: object) -> Path:
    """The name of a file or folder."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        refuse(name, "the name of a file or folder", value)
    try:
        possible = text and "\0" not in text and os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        refuse(name, "a name that a file can have", value)
    return Path(text)


def SOURCE(name: str, value: object) -> str | os.PathLike:
    """The name of a file or folder, or of a known text. Not converted."""
    PATH(name, value)
    return value


DEVICE = one_of("auto", "cpu", "cuda")
THREADS = whole(1, 1024)


def CALLABLE(name: str, value: object) -> Callable:
    if not callable(value):
        refuse(name, "a function", value)
    return value


def instance(*types: type, expected: str) -> Kind:
    """An object of one of these types."""

    def kind(name: str, value: object) -> Any:
        if not isinstance(value, types):
            refuse(name, expected, value)
        return value

    return kind


def optional(kind: Kind) -> Kind:
    """None, or this kind."""
    return lambda name, value: None if value is None else kind(name, value)


NO_LIST = str | bytes | bytearray | memoryview | Mapping


def several(kind: Kind, *single: type, expected: str) -> Kind:
    """A list of values of this kind. One value of a type in `single` counts as a list of it."""

    def found(name: str, value: object) -> list:
        if isinstance(value, single):
            return [kind(name, value)]
        is_list = isinstance(value, Iterable) and not isinstance(value, NO_LIST)
        if not is_list or getattr(value, "shape", None) == ():
            refuse(name, expected, value)
        parts = list(itertools.islice(value, MAX_PARTS + 1))
        if len(parts) > MAX_PARTS:
            raise UserError(
                f"{name} has more than {MAX_PARTS:,} values: give {expected} that ends sooner"
            )
        return [kind(name, part) for part in parts]

    return found


def TEXT(name: str, value: object) -> str | bytes:
    """Text, or its bytes. Bytes that Python could not decode, and smuggled into the text (PEP 383),
    are restored.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        refuse(name, "text or bytes", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        return utf8(value, name)
    return str(value)
