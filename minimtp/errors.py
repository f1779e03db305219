"""The errors a user is meant to read: the command line prints their message without a traceback.
`shown` and `utf8` treat what a user gave: how a message quotes it, and the bytes of a text.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """The user's input cannot be used. The message is one sentence that says what to do instead.
    Exit code 2.

    The message is one line (`one_line`): what cannot be printed is escaped, and a very long word,
    such as the name of a file, is cut.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(str(message)))


MAX_MESSAGE = 300


def one_line(message: str) -> str:
    """Return the message in one printable line of at most MAX_MESSAGE characters. A longer one is
    cut where it has the longest word.
    """
    if not message.isprintable():
        escaped = (c if c.isprintable() else ascii(c)[1:-1] for c in message)
        message = "".join(escaped)
    excess = len(message) - MAX_MESSAGE
    if excess <= 0:
        return message
    word = max(message.split(" "), key=len)
    start = message.index(word)
    if len(word) < excess + 20:  # no word is long enough to be cut alone
        word, start = message, 0
    kept = len(word) - excess - 3
    cut = word[: kept // 2] + "..." + word[len(word) - (kept - kept // 2) :]
    return message[:start] + cut + message[start + len(word) :]


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


def utf8(text: str | bytes, name: str) -> bytes:
    """Return the UTF-8 of a text, and bytes as they are. Bytes that are not UTF-8, which Python
    stores in text as lone surrogates (in sys.argv, for instance; PEP 383), are these bytes.

    Raises UserError, which begins with `name`, for any other surrogate, which is not a character.
    """
    try:
        return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} contains half of a surrogate pair (U+{ord(text[error.start]):04X} at "
            f"character {error.start}), which is not a character: remove it"
        ) from None


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Begin the message of a UserError in the block with `source`, unless it names it already."""
    try:
        yield
    except UserError as error:
        if str(source) in str(error):
            raise
        raise UserError(f"{source}: {error}") from None
