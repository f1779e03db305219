"""Each text among files and folders counts once, and what is left out is reported."""

import inspect
import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.errors import UserError
from minimtp.files import one_writer
from minimtp.training.data import folders, walk
from minimtp.training.data.corpus import open_corpus
from minimtp.training.data.folders import files_and_folders
from minimtp.training.data.walk import MARKERS, OWN_NAMES
from minimtp.training.run import checkpoint
from minimtp.training.run.log import LOG_NAME
from minimtp.training.self_generated.stored import part_path


def write_files(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.txt").write_bytes(f"file {number}\n".encode() * 20)
    return folder


def names(*paths: Path, **options) -> list[str]:
    return [name for name, _ in files_and_folders(paths, **options).texts]


def test_hidden_binary_and_empty_files_of_a_folder_are_left_out(tmp_path):
    folder = write_files(tmp_path / "texts", 2)
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\0\0")
    (folder / "empty").write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    (folder / "below").mkdir()
    (folder / "below" / "more.txt").write_text("seen")
    assert names(folder) == ["0.txt", "1.txt", "below/more.txt"]
    assert files_and_folders([folder]).skipped == "1 empty (empty), 1 not text (picture.png)"


def test_broken_links_in_a_folder_are_left_out_but_refused_if_named(tmp_path):
    folder = write_files(tmp_path / "texts", 1)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "gone").symlink_to(tmp_path / "missing")
    (folder / "up").symlink_to(tmp_path)
    assert names(folder) == ["0.txt"]
    assert files_and_folders([folder]).skipped == (
        "2 linked to nothing (gone, loop), 1 linked to a folder (up)"
    )
    for name in ("loop", "gone"):
        with pytest.raises(UserError, match="there is no file or folder"):
            open_corpus([folder / name])


def test_two_files_with_the_same_name_are_both_kept(tmp_path):
    for number, folder in enumerate(("a", "b")):
        write_files(tmp_path / folder, 1)
        (tmp_path / folder / "0.txt").write_text(f"text {number}")
    pair = [tmp_path / "a" / "0.txt", tmp_path / "b" / "0.txt"]
    assert names(*pair) == ["0.txt", "~0.txt"]
    assert open_corpus(pair).fingerprint == open_corpus(pair[::-1]).fingerprint
    assert names(tmp_path / "a", tmp_path / "b") == ["a/0.txt", "b/0.txt"]


@pytest.fixture(scope="module")
def spellings(tmp_path_factory):
    """Return ways to give the folder "texts" or parts of it, in another folder."""
    here = tmp_path_factory.mktemp("spellings")
    texts = write_files(here / "texts", 12)
    write_files(texts / "below", 3)
    (texts / "below" / "other.txt").write_text("another text\n")
    (here / "link").symlink_to(texts)
    (here / "file-link.txt").symlink_to(texts / "3.txt")
    os.link(texts / "4.txt", here / "hard-link.txt")
    (here / "copy.txt").write_bytes((texts / "5.txt").read_bytes())
    (here / "windows.txt").write_bytes(b"\xef\xbb\xbf" + b"file 6\r\n" * 20)
    (here / "utf-16.txt").write_bytes(("file 7\n" * 20).encode("utf-16"))
    relative = os.path.relpath(texts)
    given_ = ["texts", "link", "texts/", "texts/.", "texts/below", "texts/below/..", "link/below"]
    given_ += ["texts/0.txt", "texts/below/../1.txt", "file-link.txt", "hard-link.txt", "copy.txt"]
    given_ += ["windows.txt", "utf-16.txt", "link/below/other.txt"]
    return texts, [f"{here}/{name}" for name in given_] + [relative, f"./{relative}"]


@settings(max_examples=60)
@given(data=st.data())
def test_a_text_that_is_given_several_times_in_any_spelling_counts_once(spellings, data):
    texts, given_ = spellings
    chosen = data.draw(st.lists(st.sampled_from(given_), min_size=1, max_size=5))
    alone, corpus = files_and_folders([texts]), open_corpus([texts, *chosen])
    contents = [content for _, content in files_and_folders([texts, *chosen]).texts]
    assert len(contents) == len(set(contents)) == 13  # the texts below repeat those above, but one
    assert {content for _, content in alone.texts} == set(contents)
    shuffled = [texts, *chosen]
    random.Random(0).shuffle(shuffled)
    assert open_corpus(shuffled).fingerprint == corpus.fingerprint


def test_a_single_path_needs_no_list(spellings):
    texts, _ = spellings
    assert open_corpus(texts).to_dict() == open_corpus(str(texts)).to_dict()
    assert open_corpus(texts).to_dict() == open_corpus([texts]).to_dict()


def test_repeating_a_path_changes_nothing_at_all(spellings):
    texts, given_ = spellings
    same = [name for name in given_ if Path(name).resolve() == texts.resolve()]
    assert len(same) >= 6
    alone = open_corpus([texts])
    assert open_corpus([texts, *same]).notes == alone.notes
    assert open_corpus([texts, *same]).to_dict() == alone.to_dict() | {
        "name": open_corpus([texts]).name
    }
    assert open_corpus([texts, texts / "0.txt", texts / "below"]).fingerprint == alone.fingerprint


def test_equal_texts_are_never_both_trained_on_and_held_out(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_bytes(b"text %d\n" % (number % 20) * 9)
    found = files_and_folders([folder])
    assert len(found.texts) == 20
    assert found.skipped.startswith("40 equal to another file (")


def test_the_names_of_run_files_are_those_that_runs_use():
    assert checkpoint.FILE_NAME in MARKERS
    assert {checkpoint.FILE_NAME, checkpoint.RECIPE_NAME, LOG_NAME, "self-generated"} <= OWN_NAMES
    from minimtp.bench.quality.measure import FILE_NAME as quality_name
    from minimtp.compare.result_file import CACHE_NAME, FILE_NAME

    assert {quality_name, CACHE_NAME, FILE_NAME, one_writer.NAME} <= MARKERS


@given(st.from_regex(r"part-\d{4,9}\.json", fullmatch=True))
def test_only_a_name_that_selfgen_gives_to_a_part_is_that_of_a_part(name):
    assert walk._is_own(name) == (part_path(Path(), int(name[5:-5])).name == name)


def test_the_files_of_runs_are_no_texts_wherever_the_runs_are(tmp_path):
    folder = write_files(tmp_path / "texts", 2)
    alone = open_corpus([folder]).fingerprint
    out = folder / "runs" / "mine"
    out.mkdir(parents=True)
    for name in ("log.jsonl", "recipe.json", "checkpoint.safetensors.partial"):
        (out / name).write_text("{}")
    assert names(folder, out=out) == ["0.txt", "1.txt"]  # a run without a checkpoint yet
    assert open_corpus([folder], out=out).fingerprint == alone
    (out / "self-generated").mkdir()
    (out / "self-generated" / "00000.txt").write_text("generated")
    (out / checkpoint.FILE_NAME).write_bytes(b"1234567\0")
    assert open_corpus([folder]).fingerprint == alone
    assert (
        "part of a run or model (runs/mine/checkpoint.safetensors"
        in files_and_folders([folder]).skipped
    )
    for file in out.iterdir():
        file.rename(folder / file.name)  # the texts lie in the run folder
    assert open_corpus([folder]).fingerprint == alone
    assert names(folder / "self-generated") == ["00000.txt"]
    stopped = folder / "stopped"  # before its first checkpoint
    stopped.mkdir()
    (stopped / "log.jsonl").write_text('{"step": 1, "tokens": 64}\n')
    (stopped / "notes.txt").write_text("notes")
    assert names(stopped) == ["notes.txt"]
    (folder / "of a user").mkdir()
    (folder / "of a user" / "log.jsonl").write_text('{"event": "login"}\n')
    assert names(folder / "of a user") == ["log.jsonl"]
    below = tmp_path / "compared" / "stem"
    below.mkdir(parents=True)
    (below / "log.jsonl").write_text("")
    (below.parent / "text").write_text("text")
    assert names(below.parent, out=below.parent) == ["text"]
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md"):
        (model / name).write_text(f"{{}} {name}")
    assert names(model) == ["README.md"]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "recipe.json").write_text("a recipe of a cook")
    assert names(tmp_path / "recipes") == ["recipe.json"]


def test_fifos_devices_sockets_and_endless_files_are_never_opened(tmp_path):
    folder = write_files(tmp_path / "texts", 1)
    os.mkfifo(folder / "fifo")
    (folder / "null").symlink_to("/dev/null")
    (folder / "zero").symlink_to("/dev/zero")
    assert files_and_folders([folder]).skipped == "3 not a regular file (fifo, null, zero)"
    for path in (folder / "fifo", "/dev/zero"):
        with pytest.raises(UserError, match="is neither a file nor a folder: give a text file"):
            open_corpus([path])


def test_a_huge_binary_file_is_not_read_and_a_huge_text_is_refused(tmp_path, monkeypatch):
    folder = write_files(tmp_path / "texts", 1)
    with open(folder / "video", "wb") as file:
        file.write(random.Random(0).randbytes(4000))
        file.truncate(1 << 43)
    assert files_and_folders([folder]).skipped == "1 not text (video)"
    with open(folder / "text", "wb") as file:
        file.write(b"text" * (1 << 16))
        file.truncate(1 << 43)
    with pytest.raises(UserError, match=r"/text has 8,796,093,022,208 bytes, .* give less text"):
        open_corpus([folder])


def test_a_file_that_cannot_be_read_is_reported_in_a_folder_and_refused_if_named(
    tmp_path, monkeypatch
):
    folder = write_files(tmp_path / "texts", 2)

    def forbidden(path, *arguments):
        if str(path).endswith("1.txt"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *arguments)

    monkeypatch.setattr(folders, "open", forbidden, raising=False)
    assert files_and_folders([folder]).skipped == "1 unreadable (1.txt)"
    with pytest.raises(UserError, match=r"1\.txt cannot be read: Permission denied"):
        open_corpus([folder / "1.txt"])


def test_folders_may_be_nested_deeper_than_the_recursion_limit(tmp_path):
    deepest = tmp_path.joinpath(*"a" * 120)
    deepest.mkdir(parents=True)
    (deepest / "text.txt").write_text("deep")
    limit, depth = sys.getrecursionlimit(), len(inspect.stack(0))
    sys.setrecursionlimit(depth + 100)
    try:
        found = files_and_folders([tmp_path]).texts
    finally:
        sys.setrecursionlimit(limit)
    assert found == [("a/" * 120 + "text.txt", b"deep")]


@pytest.mark.parametrize("name", [b"\xff\xfe.txt", b"a\nb", b"\x1b[31m", b" ", b"-x", b"'\"$`\\"])
def test_files_with_odd_names_are_read_and_shown_in_one_line(tmp_path, name):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / os.fsdecode(name)).write_bytes(b"some text\n")
    assert names(folder) == [os.fsdecode(name)]
    assert open_corpus([folder / os.fsdecode(name)]).describe().isprintable()
    (folder / os.fsdecode(name)).write_bytes("текст".encode("cp1251"))
    with pytest.raises(UserError) as error:
        open_corpus([folder])
    assert str(error.value).isprintable() and "1 not UTF-8 (" in str(error.value)


def test_files_in_other_encodings_are_counted_and_read_with_the_encoding(tmp_path):
    folder = write_files(tmp_path / "texts", 2)
    for number in range(5):
        text = f"Текст номер {number}\r\n"
        (folder / f"russian{number}.txt").write_bytes(text.encode("cp1251"))
    (folder / "notepad.txt").write_bytes("Привет\r\n".encode("utf-16"))
    (folder / "unmarked.txt").write_bytes("Привет, мир\r\n".encode("utf-16-le"))
    corpus = open_corpus([folder])
    assert corpus.files == 3
    assert corpus.notes == [
        "skipped: 5 not UTF-8 (russian0.txt, russian1.txt, russian2.txt, ...), 1 UTF-16 without a "
        "byte order mark (unmarked.txt); --encoding NAME reads files in another encoding"
    ]
    corpus = open_corpus([folder], encoding="windows-1251")
    assert corpus.files == 8 and corpus.to_dict()["encoding"] == "cp1251"
    assert corpus.notes[0] == "files read: 5 in cp1251, 2 in utf-8, 1 in utf-16-le"
    for file in folder.glob("russian*"):
        file.write_bytes(file.read_bytes().decode("cp1251").replace("\r\n", "\n").encode())
    assert open_corpus([folder]).fingerprint == corpus.fingerprint


@settings(max_examples=40)
@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
                        min_size=1, max_size=80), min_size=1, max_size=8))  # fmt: skip
def test_the_summary_of_skipped_files_is_one_line_of_limited_length(given_):
    skipped = folders.Skipped()
    for number, name in enumerate(given_):
        skipped.add(f"reason {number % 5}", name)
    for limit in (100, 160, 600):
        assert len(skipped.summary(limit)) <= limit and skipped.summary(limit).isprintable()
    assert skipped.summary(10**6).count("reason") == min(5, len(given_))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty: give a text file"),
        ("Текст".encode("cp1251"), "is not UTF-8 (byte 0xd2 at position 0): give its encoding"),
        ("天地玄黄".encode("gbk"), "is not UTF-8 (byte 0xcc at position 0): give its encoding"),
        ("Hello, world\n".encode("utf-16-le"), "is UTF-16 without a byte order mark: read it with"),
        (b"\x7fELF\0\0", "is not text (its first bytes are those of another kind of file)"),
    ],
)
def test_a_named_file_without_text_is_refused_with_what_was_found(tmp_path, content, words):
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(UserError) as error:
        open_corpus([tmp_path / "it"])
    assert words in str(error.value) and len(str(error.value)) <= 300


def test_text_that_does_not_fit_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "small.txt").write_text("a" * 100)
    (tmp_path / "large.txt").write_text("b" * 1000)
    monkeypatch.setattr("minimtp.machine.total_memory", lambda: 4 * 1000)
    assert files_and_folders([tmp_path / "large.txt"]).texts
    with pytest.raises(UserError, match="the text does not fit into the memory of this machine"):
        files_and_folders([tmp_path])
