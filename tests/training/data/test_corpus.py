"""A corpus is split and fingerprinted, and its batches and validation windows are reproducible."""

import tracemalloc

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.data.document_tokens import tokens_of
from minimtp.training.data.split import fingerprint, is_held_out, split
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.helpers.strategies import documents


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
            corpus.batch(s, seed=seed, batch_size=batch_size, sequence_length=context_length)
            for s in range(steps)
        ]
    )
    first, second = rows[:windows, :context_length], rows[windows : 2 * windows, :context_length]
    for epoch in (first, second):
        assert len(np.unique(epoch)) == windows * context_length


def test_each_epoch_has_another_order_and_another_offset():
    corpus = counting_corpus(1000)
    first, second = (
        corpus.batch(step, seed=0, batch_size=100, sequence_length=10)[:, 0] for step in (0, 1)
    )
    assert not np.array_equal(first, second)
    assert len({*(first % 10)}) == 1 and first[0] % 10 != second[0] % 10


@given(**sizes, step=st.integers(0, 1000), depth=st.integers(0, 4), windows=st.integers(5, 40))
def test_a_row_holds_consecutive_tokens_including_the_targets_of_every_depth(
    batch_size, context_length, seed, step, depth, windows
):
    length = windows * context_length
    rows = counting_corpus(length).batch(
        step, seed=seed, batch_size=batch_size, sequence_length=context_length, depth=depth
    )
    assert rows.shape == (batch_size, context_length + 1 + depth)
    assert rows.dtype == np.int64
    assert (rows[:, 1:] == (rows[:, :-1] + 1) % length).all()


@given(**sizes, step=st.integers(0, 1000), depth=st.integers(1, 4))
def test_a_batch_has_the_same_windows_for_any_depth(batch_size, context_length, seed, step, depth):
    corpus = counting_corpus(40 * context_length)
    shallow = corpus.batch(step, seed=seed, batch_size=batch_size, sequence_length=context_length)
    deep = corpus.batch(
        step, seed=seed, batch_size=batch_size, sequence_length=context_length, depth=depth
    )
    assert np.array_equal(deep[:, : context_length + 1], shallow)


def test_a_batch_depends_only_on_seed_and_step():
    one, other = counting_corpus(1000), counting_corpus(1000)
    for step in (0, 7, 3):  # in any order, from any object
        assert np.array_equal(
            one.batch(step, seed=5, batch_size=2, sequence_length=8),
            other.batch(step, seed=5, batch_size=2, sequence_length=8),
        )
    assert not np.array_equal(
        one.batch(3, seed=5, batch_size=2, sequence_length=8),
        one.batch(3, seed=6, batch_size=2, sequence_length=8),
    )
    assert not np.array_equal(
        one.batch(3, seed=5, batch_size=2, sequence_length=8),
        one.batch(4, seed=5, batch_size=2, sequence_length=8),
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
        tokens, sequence_length=context_length, depth=depth
    )
    inputs = windows[:, :context_length]
    assert len(np.unique(inputs)) == inputs.size
    assert windows.max() < length
    assert inputs.size <= max(tokens, context_length)
    # 64 tokens are reserved for the targets of the deepest heads
    beyond = min(64, length - context_length - 1)
    assert inputs.size > min(tokens, length - 1 - beyond) - context_length  # no space is wasted


def test_few_validation_windows_are_spread_over_the_whole_text():
    starts = counting_corpus(1001).validation_windows(40, sequence_length=10)[:, 0]
    assert starts.tolist() == [0, 234, 468, 702]


@given(
    length=st.integers(20, 300),
    tokens=st.integers(1, 400),
    context_length=st.integers(1, 12),
    depth=st.integers(0, 7),
)
def test_validation_windows_are_the_same_for_any_depth(length, tokens, context_length, depth):
    corpus = counting_corpus(length)
    shallow = corpus.validation_windows(tokens, sequence_length=context_length, depth=0)
    deep = corpus.validation_windows(tokens, sequence_length=context_length, depth=depth)
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


def test_the_error_for_a_text_that_is_too_short_says_how_many_tokens_are_needed():
    corpus = Corpus("poem", [("poem", b"x" * 200)])
    with pytest.raises(UserError, match="one batch of 4 x 64 needs 256 tokens"):
        corpus.require(4, 64, 0)
    with pytest.raises(UserError, match="one window needs 41"):
        corpus.require(1, 40, 0)
    corpus.require(2, 16, 2)


def test_each_document_ends_with_the_end_token():
    corpus = Corpus("two", [("a", b"x" * 50), ("b", b"y" * 50)])
    ends = np.flatnonzero(corpus.train == corpus.tokenizer.end_token)
    assert ends.tolist() == [50, 91]
    assert corpus.train_bytes == 90


def test_byte_tokens_are_those_that_the_tokenizer_gives():
    contents = [b"ab\xc3\xa9", b"", b"c"]
    tokenizer = ByteTokenizer()
    expected = [t for c in contents for t in [*tokenizer.encode(c), tokenizer.end_token]]
    assert tokens_of(contents, tokenizer).tolist() == expected


def test_a_corpus_of_one_large_text_takes_a_few_times_its_size_in_memory(tmp_path):
    (tmp_path / "large.txt").write_bytes(b"a large text, again and again\n" * 500_000)  # 15 MB
    tracemalloc.start()
    try:
        open_corpus([tmp_path / "large.txt"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 15_000_000
