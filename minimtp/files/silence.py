"""Compiled libraries write to the error output, past Python."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_errors() -> Iterator[None]:
    """Hide what anything in this process writes to the error output in the `with` block."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
