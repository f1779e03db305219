"""From the bytes of a file to text: encodings, byte order marks and line ends, treated here only.

Corpora, prompts from files and from standard input, and the texts of `--prompt` and `--stop` all
pass through this file, so the same text gives the same tokens, whichever program wrote it.

**Encoding.**
1. A byte order mark decides: UTF-8, UTF-16 or UTF-32.
2. Without one, a file that is valid UTF-8 is UTF-8, also with `--encoding`. So a folder may hold
   files in UTF-8 and files in other encodings. (Two kinds of files are valid UTF-8 by accident:
   those of 7-bit encodings such as iso-2022-jp, and UTF-16 and UTF-32, which have zero bytes and
   control characters. Such an `--encoding` is tried first.)
3. Every other file is read as `--encoding` says. Nothing is guessed: without `--encoding`, the file
   is refused, or skipped with a message if it lies in a folder. Of several encodings, the first one
   in which the file is valid is used, so those that accept every file belong at the end:
   `--encoding gbk,cp1251`.

**Normalization.** Byte order marks at the beginning are removed, and so are zero bytes and Ctrl-Z
at the end, with which old programs pad files. Line ends "\\r\\n" and "\\r" become "\\n". Everything
else is part of the text: form feeds, tabs, blanks at the ends of lines, a missing line end at the
end, and the composition of accents.
"""

import codecs
import encodings
import unicodedata
from functools import lru_cache

from minimtp.errors import UserError

MARK = "\ufeff"  # the byte order mark
PADDING = "\0\x1a"  # at the end of files: zero bytes, and the end mark of DOS (Ctrl-Z)
MARKS = (  # UTF-32 first, because its mark in little-endian order begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
WITHOUT_ORDER = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}  # if the file has no mark either
NO_ENCODINGS_OF_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")
SAMPLE = "ж中한あéß"  # characters outside ASCII, some of which every encoding of text has
SIGNATURES = (  # files that may pass for text: documents, pictures and archives
    b"%PDF-1", b"{\\rtf1", b"\x89PNG", b"\xff\xd8\xff", b"PK\x03\x04", b"\x1f\x8b", b"BZh91AY&SY",
    b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"\x7fELF", b"\xd0\xcf\x11\xe0",
)  # fmt: skip
CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1b")
MAX_CONTROLS = 0.02  # fraction of control characters above which a file is not text
GUESSED_BYTES = 1 << 16  # that are looked at for a hint


class NotText(Exception):
    """Content that cannot be read as text.

    kind: a few words that follow "is" or "are", the same for all files of the kind.
    detail: where or why, or "". remedy: what to do about one file.
    """

    def __init__(self, kind: str, detail: str, remedy: str) -> None:
        super().__init__(kind)
        self.kind, self.detail, self.remedy = kind, detail, remedy

    def sentence(self, name: str) -> str:
        """Return the error message for one file."""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{name} is {self.kind}{detail}: {self.remedy}"


def checked_encoding(names: str | None) -> str | None:
    """Return the name of an encoding, or several with commas, in Python's spelling.

    Raises UserError for a name that Python does not know.
    """
    if names is None:
        return None
    return ",".join(dict.fromkeys(_known_encoding(name.strip()) for name in names.split(",")))


def _known_encoding(name: str) -> str:
    try:
        found = encodings.search_function(name.lower())  # not codecs.lookup: packages add others
    except (LookupError, ValueError):
        found = None
    if found is None or not found._is_text_encoding or found.name in NO_ENCODINGS_OF_FILES:
        raise UserError(
            f"unknown encoding {name!r:.60}: use one of Python's names, such as utf-8, utf-16-le, "
            "cp1251, gbk, shift_jis or latin-1"
        )
    return WITHOUT_ORDER.get(found.name, found.name)


def normalized(text: str) -> str:
    """Return the text without byte order marks and padding, and with "\\n" as its line ends."""
    return text.lstrip(MARK).rstrip(PADDING).replace("\r\n", "\n").replace("\r", "\n")


def decode(content: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Return the normalized text of a file, and the encoding in which it was read.

    encoding: for content that neither has a byte order mark nor is UTF-8; from `checked_encoding`.

    Raises NotText if the content is in none of these encodings.
    """
    candidates = _candidates(content, encoding)
    failure = ""  # of the first candidate
    for name, mark in candidates:
        try:
            text = normalized(content[len(mark) :].decode(name))
            text.encode()  # utf-7 can spell half a character
            return text, name
        except UnicodeDecodeError as error:
            place = len(mark) + error.start
            failure = failure or f"byte 0x{content[place]:02x} at position {place:,}"
        except UnicodeError:
            failure = failure or "it has halves of characters"
    raise _undecodable(failure, candidates)


def decode_document(content: bytes, encoding: str | None = None) -> tuple[bytes, str]:
    """Return a document of a corpus as normalized UTF-8, and the encoding in which it was read.

    Raises NotText if the content is empty, binary, or in another encoding.
    """
    check_beginning(content, encoding)
    try:
        text, name = decode(content, encoding)
    except NotText:
        if _is_mostly_control(content) and not _has_mark(content):
            raise _binary("it has many control characters") from None
        raise
    if not text:
        raise NotText("empty", "", "give a text file with something in it")
    document = text.encode()
    if b"\0" in document or _is_mostly_control(document):
        raise _unmarked(content) or _binary("it has zero bytes or many control characters")
    return document, name


def check_beginning(content: bytes, encoding: str | None = None) -> None:
    """Raise NotText if the first bytes of a file show that it is not text."""
    if content.startswith(SIGNATURES):
        raise _binary("its first bytes are those of another kind of file")
    if b"\0" in content.rstrip(PADDING.encode()) and not (_has_mark(content) or _is_wide(encoding)):
        raise _unmarked(content) or _binary("it has zero bytes")


def is_wide(content: bytes) -> bool:
    """Return whether the content begins with the byte order mark of UTF-16 or UTF-32."""
    return any(content.startswith(mark) for mark, name in MARKS if name != "utf-8")


def _has_mark(content: bytes) -> bool:
    return content.startswith(tuple(mark for mark, _ in MARKS))


def _candidates(content: bytes, encoding: str | None) -> list[tuple[str, bytes]]:
    """Return the encodings to try, each with the byte order mark that the content has."""
    for mark, name in MARKS:
        if content.startswith(mark):
            return [(name, mark)]
    given = [name for name in _split(encoding) if name not in ("utf-8", "utf-8-sig")]
    wide = b"\0" in content or _is_mostly_control(content)
    first = [name for name in given if _is_seven_bit(name) or (wide and _is_wide(name))]
    return [(name, b"") for name in dict.fromkeys([*first, "utf-8", *given])]


def _split(encoding: str | None) -> list[str]:
    return encoding.split(",") if encoding else []


@lru_cache
def _is_seven_bit(encoding: str) -> bool:
    """Return whether all text in this encoding looks like ASCII."""
    encoded = SAMPLE.encode(encoding, "ignore")
    return bool(encoded) and b"\0" not in encoded and encoded.isascii()


@lru_cache
def _is_wide(encoding: str | None) -> bool:
    """Return whether text in one of these encodings has zero bytes."""
    return any(b"\0" in "a".encode(name, "ignore") for name in _split(encoding))


def _is_mostly_control(content: bytes) -> bool:
    content = content.rstrip(PADDING.encode())
    controls = len(content) - len(content.translate(None, CONTROLS))
    return controls > MAX_CONTROLS * len(content)


def _binary(detail: str) -> NotText:
    return NotText("not text", detail, "give a text file")


def _undecodable(detail: str, candidates: list[tuple[str, bytes]]) -> NotText:
    names = [name.upper() if name.startswith("utf") else name for name, _ in candidates]
    if candidates[0][1]:
        return NotText(
            f"not {names[0]}", detail, "repair the file, whose byte order mark says that it is"
        )
    if len(names) > 1:
        names.sort(key=lambda name: name != "UTF-8")
        return NotText("neither " + " nor ".join(names), detail, "choose another --encoding")
    return NotText(
        f"not {names[0]}",
        detail,
        "give its encoding, for instance --encoding cp1251 (Cyrillic), gbk (Chinese) or latin-1",
    )


def _unmarked(content: bytes) -> NotText | None:
    """Return the error for text in UTF-16 or UTF-32 without a byte order mark, None for others."""
    beginning = content[: GUESSED_BYTES & -4]
    if len(beginning) % 2 or _is_mostly_ascii_pairs(beginning):
        return None
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = beginning.decode(name).rstrip("\0")
        except UnicodeError:
            continue
        # Read in a wrong encoding, content has characters that no text uses.
        unused = sum(
            unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in "\t\n\v\f\r" for c in text
        )
        if text and unused <= MAX_CONTROLS * len(text):
            plain = name[:6].upper()
            return NotText(
                f"{plain} without a byte order mark", "", f"read it with --encoding {name}"
            )
    return None


def _is_mostly_ascii_pairs(content: bytes) -> bool:
    """Return whether most pairs of bytes are two ASCII letters: strings among binary data."""
    pairs = zip(content[::2], content[1::2], strict=False)
    ascii_pairs = sum(31 < low < 127 and 31 < high < 127 for low, high in pairs)
    return ascii_pairs > len(content) // 4
