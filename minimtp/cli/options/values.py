"""How the value of an option is read. Each function raises ArgumentTypeError for text it cannot
read.
"""

import argparse
import math

from minimtp.errors import shown

SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9}
MAX_WHOLE_NUMBER = 2**63 - 1


def whole_number(text: str) -> int:
    """Read 12, 1_000, 1e6 or 500k."""
    scale = SUFFIXES.get(text[-1:], 1)
    unscaled = text[:-1] if scale > 1 else text
    try:
        value = int(unscaled) * scale
    except ValueError:  # not an integer, or one of thousands of digits
        value = number(unscaled) * scale
    if abs(value) > MAX_WHOLE_NUMBER:
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is too large")
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is not a whole number")
    return int(value)


def seed(text: str) -> int:
    """Read a seed of random numbers."""
    value = whole_number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(
            f"a seed is a whole number from 0 to 2^63 - 1, not {value}"
        )
    return value


def whole_numbers(text: str) -> tuple[int, ...]:
    """Read 8,4 as (8, 4)."""
    return tuple(whole_number(part) for part in text.split(","))


def draft_length(text: str) -> int | str:
    """Read "auto" or a whole number."""
    return text if text == "auto" else whole_number(text)


def number(text: str) -> float:
    """Read a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is not a finite number")
    return value
