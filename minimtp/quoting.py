"""Names of files in messages, and commands that a reader can paste into a shell.

Every command that minimtp prints is made by `command`, so it works for any name: with blanks,
quotes, dollar signs, line ends, a dash in front, bytes that are not UTF-8, or letters that the
terminal cannot show.
"""

import itertools
import os
import shlex
import sys

MAX_SHOWN = 100  # characters of a name in a message


def command(*words: str | os.PathLike) -> str:
    """Return a command line that a POSIX shell splits into exactly these words.

    A path (not a string) that begins with a dash gets "./" in front, so that no program takes it
    for an option.
    """
    return " ".join(map(_quoted, words))


def shown_path(path: str | os.PathLike) -> str:
    """Return a path for a message: one line of printable characters, at most MAX_SHOWN.

    A longer one loses its middle, because its end is what tells files apart.
    """
    name = "".join(c if c.isprintable() else _escaped(c) for c in os.fsdecode(path))
    if len(name) <= MAX_SHOWN:
        return name or "''"
    return f"{name[: MAX_SHOWN // 2 - 2]}...{name[-MAX_SHOWN // 2 + 1 :]}"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _quoted(word: str | os.PathLike) -> str:
    text = os.fsdecode(word)
    if text.startswith("-") and isinstance(word, os.PathLike):
        text = f"./{text}"
    if _can_be_printed(text):
        return shlex.quote(text)
    pieces = itertools.groupby(text, _can_be_printed)
    return "".join(
        shlex.quote("".join(piece)) if printable else _octal("".join(piece))
        for printable, piece in pieces
    )


def _can_be_printed(text: str) -> bool:
    """Return whether a terminal can show it. Bytes that are not UTF-8 never can be."""
    try:
        text.encode("utf-8")
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _octal(text: str) -> str:
    """Return shell code that makes text that cannot be printed."""
    escapes = "".join(f"\\0{byte:03o}" for byte in os.fsencode(text))
    return f"\"$(printf %b '{escapes}')\""
