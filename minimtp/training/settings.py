"""The definition of a recipe's settings. Each has a group, a help text and allowed values.

The command line's options are made from these settings, and each value is checked against them.
"""

import dataclasses
import difflib
import textwrap
from collections.abc import Collection, Iterable
from dataclasses import field
from typing import NamedTuple

from minimtp.arguments import as_flag, as_number, as_whole, refuse
from minimtp.errors import UserError, shown

GROUPS = {
    "model": "the transformer",
    "heads": "multi-token prediction heads",
    "quantize": "quantization-aware training",
    "training": "budget, optimizer and schedule",
}
Value = int | float | bool | str
MARGIN = 12  # columns before the settings in `describe`


class Range(NamedTuple):
    """The numbers from `low` to `high`, both included. If `open`, `low` itself is excluded."""

    low: float
    high: float
    open: bool = False

    def __contains__(self, value: object) -> bool:  # False for NaN
        above = value > self.low if self.open else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        least = "more than" if self.open else "at least"
        return f"{least} {exact(self.low)} and at most {exact(self.high)}"


FRACTION = Range(0.0, 1.0)
MOMENTUM = Range(0.0, 0.9999999)


def setting(
    group: str, default: Value | None, allowed: Range | tuple[str, ...] | None, text: str
) -> Value:
    """Return a dataclass field for a setting.

    allowed: a range of numbers, a tuple of words, or None for any value. text: its help text.
    """
    metadata = {"group": group, "help": text, "allowed": allowed}
    return field(default=default, metadata=metadata)


def kind_of(field: dataclasses.Field) -> type:
    """Return the type of a setting's value: int, float, bool or str."""
    return int if field.type == int | None else field.type


def checked(field: dataclasses.Field, value: object) -> Value:
    """Return the value in the type of its field.

    Raises UserError, which says what is allowed, for another type or a value that is not allowed.
    """
    kind, allowed, name = kind_of(field), field.metadata["allowed"], field.name
    if value is None and field.default is None:
        return None
    expected, convert = KINDS[kind]
    found = convert(value)
    if found is None:
        refuse(name, expected, value)
    if allowed is not None and found not in allowed:
        choice = str(allowed) if isinstance(allowed, Range) else f"one of {', '.join(allowed)}"
        raise UserError(f"{name} must be {choice}, not {shown(exact(found))}")
    return found


def _as_word(value: object) -> str | None:
    return str(value) if isinstance(value, str) else None


KINDS = {  # by type: what is expected, and the conversion, which returns None for anything else
    int: ("a whole number", as_whole),
    float: ("a number", as_number),
    bool: ("true or false", as_flag),
    str: ("a word", _as_word),
}


def check_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise UserError, which suggests the closest spelling, unless `name` is among the known ones.

    kind: the kind of the name, such as "option" or "preset".
    """
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"known are {shown(', '.join(known), 150)}"
        raise UserError(f"unknown {kind} {shown(name)!r}: {hint}")


def exact(value: object) -> str:
    """Return a number with all of its digits, so that a limit and what exceeds it differ."""
    text = short(value)
    return text if not isinstance(value, float) or float(text) == value else repr(value)


def short(value: object) -> str:
    """Return the value for people: a float without trailing zeros."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(settings: object, hidden: Collection[str]) -> str:
    """Return the values of a dataclass of settings for people: one paragraph per group, at most 100
    columns wide.

    hidden: the settings that are left out where they have their default.
    """
    paragraphs = []
    for group in GROUPS:
        # A no-break space keeps name and value in one line.
        values = [
            f"{field.name}\u00a0{short(getattr(settings, field.name))}"
            for field in dataclasses.fields(settings)
            if field.metadata["group"] == group
            and (field.name not in hidden or getattr(settings, field.name) != field.default)
        ]
        lines = textwrap.wrap(", ".join(values), 100 - MARGIN)
        text = textwrap.indent("\n".join(lines), " " * MARGIN)
        paragraphs.append(f"  {group}".ljust(MARGIN) + text.lstrip())
    return "\n".join(paragraphs).replace("\u00a0", " ")
