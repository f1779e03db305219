"""How the names of tokens spell text: one character per byte, or pieces of text.

    byte level   GPT-2's: every byte is one printable character, "\\u0120the" is b" the"
    pieces       SentencePiece's, as in Llama 2: a name is its text with "\\u2581" for a space, and
                 "<0xE7>" is a byte of a character that no piece has

Both can be exact. In pieces, the character "\\u2581" itself would become a space, so it is encoded
as its bytes.
"""

import re
from functools import cache


@cache
def byte_of_spelling() -> dict[str, int]:
    """Return the byte of each character with which byte-level vocabularies (GPT-2's) spell bytes.

    If the character of a byte is printable, it is also its spelling.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + rank): byte for rank, byte in enumerate(others)
    }


def byte_spellings() -> list[str]:
    """Return the characters with which byte-level vocabularies spell the bytes 0, 1, ..., 255."""
    return sorted(byte_of_spelling(), key=byte_of_spelling().get)


class ByteLevel:
    """byte_names: the names of the tokens of single bytes. apart: parts of a text that are encoded
    byte by byte. prompt_prefix: comes before a prompt.
    """

    apart = re.compile("([\udc80-\udcff]+)")  # bytes that are not UTF-8, as Python stores them
    prompt_prefix = ""

    def __init__(self) -> None:
        self.byte_names = byte_spellings()

    def spelt(self, name: str) -> bytes:
        """Return the bytes of a token with this name.

        A name with other characters is the text itself, as in the library.
        """
        known = byte_of_spelling()
        if known.keys() >= set(name):
            return bytes(map(known.__getitem__, name))
        return name.encode()

    def prepare(self, text: str) -> str:
        """Return the text as the library shall see it."""
        return text


SPACE = "\u2581"


class Pieces(ByteLevel):
    """The same for pieces of text. prompt_prefix: most such models expect a space before a text."""

    apart = re.compile(f"([\udc80-\udcff{SPACE}]+)")

    def __init__(self, prompt_prefix: str) -> None:
        self.byte_names = [f"<0x{byte:02X}>" for byte in range(256)]
        self._byte_of = {name: byte for byte, name in enumerate(self.byte_names)}
        self.prompt_prefix = prompt_prefix

    def spelt(self, name: str) -> bytes:
        byte = self._byte_of.get(name)
        return name.replace(SPACE, " ").encode() if byte is None else bytes([byte])

    def prepare(self, text: str) -> str:
        return text.replace(" ", SPACE)
