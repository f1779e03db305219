"""The text files among some files and folders: each text once, and a list of what was left out.

**Each text once.** A file that is found twice (through a link, another spelling of its path, or a
folder that holds it) and a file whose text equals that of another one count once. Otherwise a text
could be trained on and held out at the same time.

**What is left out of a folder.** Hidden files and folders, silently. Everything else that is not
text (see also walk.py) is counted by reason and reported in one line: `Collection.skipped`. A file
that was named itself is never skipped: it is read, or it is an error.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minimtp import machine
from minimtp.errors import UserError
from minimtp.files import advice_to_read, kind_at, reason_for
from minimtp.quoting import shown_path
from minimtp.training.data.encoding import NotText, check_beginning, decode_document
from minimtp.training.data.walk import files_below

Texts = list[tuple[str, bytes]]  # (name, content)

BEGINNING = 1 << 16  # bytes that are read first: most binary files show what they are
SHOWN_NAMES = 3  # of the files that were left out for one reason
MAX_LINE, MAX_CLAUSE = 600, 160  # characters of the summary, alone and in a sentence
MEMORY_PER_BYTE = 4  # at least: the text, and its tokens
UNKNOWN_MEMORY = 1 << 40  # bytes; the system does not say how much there is, so no limit


@dataclass
class Collection:
    """The texts, sorted by name.

    paths: the files and folders that they came from, without repeated ones.
    encodings: how many files were read in each encoding. skipped: one line about what was left out,
    or "".
    """

    texts: Texts = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    encodings: Counter[str] = field(default_factory=Counter)
    skipped: str = ""


@dataclass(frozen=True, eq=False)
class _Source:
    """A given file or folder.

    files: (name, path) of each file. skipped: (reason, name) of what was left out.
    """

    path: Path
    is_folder: bool
    files: list[tuple[str, Path]]
    skipped: list[tuple[str, str]]
    identities: frozenset[tuple[int, int]]


class Skipped:
    """What was left out of the folders, by reason."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self._names.setdefault(reason, []).append(name)

    def summary(self, limit: int) -> str:
        """Return "3 not UTF-8 (a.txt, b.txt, c.txt), 1 empty (d.txt)", or "" for nothing.

        limit: the maximum length. The names of the rarest reasons are left out first.
        """
        reasons = sorted(self._names.items(), key=lambda item: -len(item[1]))
        for named in range(len(reasons), -1, -1):
            parts = [_part(reason, names, i < named) for i, (reason, names) in enumerate(reasons)]
            if len(text := ", ".join(parts)) <= limit:
                break
        return text

    def readable_with_an_encoding(self) -> bool:
        return any(reason.startswith(("not UTF", "neither", "UTF")) for reason in self._names)


def _part(reason: str, names: list[str], with_names: bool) -> str:
    if not with_names:
        return f"{len(names):,} {reason}"
    some = ", ".join(shown_path(name) for name in sorted(names)[:SHOWN_NAMES])
    return f"{len(names):,} {reason} ({some}{', ...' if len(names) > SHOWN_NAMES else ''})"


def files_and_folders(
    paths: Sequence[str | Path],
    encoding: str | None = None,
    *,
    out: str | Path | None = None,
    option: str = "--corpus",
) -> Collection:
    """Return every text among `paths` and below the folders among them, as normalized UTF-8.

    encoding: for files that are not UTF-8 (encoding.py). out: the folder that the command writes.
    option: the option of the command that takes the paths, for messages.

    Raises UserError if a path is missing or unreadable, holds no text, or is a file without text.
    """
    skipped, collection = Skipped(), Collection()
    sources = _without_repeated([_source(path, out, option) for path in paths])
    for source in sources:
        for reason, name in source.skipped:
            skipped.add(reason, name)
    collection.paths = [source.path for source in sources]
    reader = _Reader(encoding, collection, skipped)
    found = []
    for source in sources:
        prefix = ""
        if source.is_folder and len(sources) > 1:
            prefix = f"{source.path.resolve().name}/"
        texts = [(prefix + name, text) for name, text in reader.read(source)]
        if not texts:
            why = skipped.summary(MAX_CLAUSE)
            raise UserError(
                f"the folder {shown_path(source.path)} holds no text files"
                + (f" ({why})" if why else "")
                + (
                    ": give their encoding with --encoding"
                    if skipped.readable_with_an_encoding()
                    else f": give a folder or file of text with {option}"
                )
            )
        found += texts
    collection.texts = _each_once(found, skipped)
    collection.skipped = skipped.summary(MAX_LINE)
    if skipped.readable_with_an_encoding():
        collection.skipped += "; --encoding NAME reads files in another encoding"
    return collection


class _Reader:
    """Reads the files of sources, within the memory of the machine."""

    def __init__(self, encoding: str | None, collection: Collection, skipped: Skipped) -> None:
        self._encoding, self._skipped = encoding, skipped
        self._encodings = collection.encodings
        self._bytes_left = (machine.total_memory() or UNKNOWN_MEMORY) // MEMORY_PER_BYTE

    def read(self, source: _Source) -> Iterator[tuple[str, bytes]]:
        """Yield (name, text) of each text file. A single file without text is a UserError."""
        for name, path in source.files:
            try:
                text, encoding = self._text(path)
            except NotText as error:
                if not source.is_folder:
                    raise UserError(error.sentence(shown_path(source.path))) from None
                self._skipped.add(error.kind, name)
            except OSError as error:
                if not source.is_folder:
                    raise UserError(
                        f"{shown_path(source.path)} cannot be read: {reason_for(error)}: "
                        f"{advice_to_read(error)}"
                    ) from None
                self._skipped.add("unreadable", name)
            else:
                self._encodings[encoding] += 1
                yield name, text

    def _text(self, path: Path) -> tuple[bytes, str]:
        size = path.stat().st_size
        if not size:  # also most files of /proc, some of which never end
            raise NotText("empty", "", "give a text file with something in it")
        with open(path, "rb") as file:
            beginning = file.read(BEGINNING)
            check_beginning(beginning, self._encoding)
            self._bytes_left -= size
            if self._bytes_left < 0:
                raise UserError(
                    f"{shown_path(path)} has {size:,} bytes, and the text does not fit into the "
                    "memory of this machine: give less text"
                )
            content = beginning + file.read(max(0, size - len(beginning)))
        return decode_document(content, self._encoding)


def _source(given: str | Path, out: str | Path | None, option: str) -> _Source:
    path, skipped = Path(given), []
    kind = kind_at(given)  # not of the path: Path("") is the current folder
    if kind == "nothing":
        raise UserError(
            f"there is no file or folder {shown_path(given)}: give an existing {option}"
        )
    if kind == "other":
        raise UserError(f"{shown_path(given)} is neither a file nor a folder: give a text file")
    if kind == "file":
        files = [(path.name, path)]
    else:
        files = files_below(
            path,
            skip=lambda part: part.startswith("."),
            report=lambda reason, name: skipped.append((reason, name)),
            out=None if out is None else Path(out),
        )
    identities = frozenset(_identity(file) for _, file in files)
    return _Source(path, kind == "folder", files, skipped, identities)


def _without_repeated(sources: list[_Source]) -> list[_Source]:
    """Return the sources, without those whose files are all files of another one."""
    kept: list[_Source] = []
    seen: set[tuple[int, int]] = set()
    # Of links to one file, the first name in alphabetical order counts, so that the order of the
    # paths does not matter. The path of a folder is not part of any name.
    for source in sorted(sources, key=lambda s: (-len(s.files), s.path.name * (not s.is_folder))):
        if source.is_folder:
            repeated = any(source.identities <= other.identities for other in kept)
        else:
            repeated = source.identities <= seen
        if not repeated or not source.identities:
            kept.append(source)
            seen |= source.identities
    order = {id(source): place for place, source in enumerate(sources)}
    return sorted(kept, key=lambda source: order[id(source)])


def _each_once(found: Texts, skipped: Skipped) -> Texts:
    """Return the texts sorted by name, each text once. Equal names are told apart by "~"."""
    texts: dict[str, bytes] = {}
    known: set[bytes] = set()
    for name, content in sorted(found):
        if content in known:
            skipped.add("equal to another file", name)
            continue
        known.add(content)
        while name in texts:  # two files with the same name from different folders
            name = "~" + name
        texts[name] = content
    return sorted(texts.items())


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # deleted since it was found: reading it will fail
        return -1, hash(path)
    return status.st_dev, status.st_ino
