"""What an option's value may look like, and the choice of kernels."""

import argparse


def whole(text: str) -> int:
    """12, 1_000, 1e6 or 500k as an int."""
    scaled = {"k": 10**3, "M": 10**6, "G": 10**9}
    factor = scaled.get(text[-1:], 1)
    unscaled = text[:-1] if factor > 1 else text
    try:
        value = int(unscaled) * factor
    except ValueError:
        value = number(unscaled) * factor
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def numbers(text: str) -> tuple[int, ...]:
    """8,4 as (8, 4)."""
    return tuple(whole(part) for part in text.split(","))


def length(text: str) -> int | str:
    return text if text == "auto" else whole(text)


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if value in (float("inf"), -float("inf")) or value != value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def use_kernels(options: argparse.Namespace) -> None:
    if options.kernels:
        from minimtp import kernels

        kernels.use(options.kernels)
