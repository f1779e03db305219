"""The errors a user is meant to read: the command line prints their message without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """The user's input cannot be used. The message is one sentence that says what to do instead.
    Exit code 2.
    """


class MeasurementFailed(Exception):
    """The results of a measurement are unreliable, or one of its processes ended. The message says
    why. Exit code 1.
    """


def shown(value: object, limit: int = 40) -> str:
    """Return a value of the user's as a message quotes it: in one line of at most `limit`
    characters. A longer one is cut, and ends with dots.
    """
    text = str(value)
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join(character if character.isprintable() else "?" for character in text)


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Begin the message of a UserError in the block with `source`, unless it names it already."""
    try:
        yield
    except UserError as error:
        if str(source) in str(error):
            raise
        raise UserError(f"{source}: {error}") from None
