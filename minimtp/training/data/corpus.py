"""A corpus: text as tokens, split into training and validation, read in reproducible batches.

**Split.** With many files, the hash of the file name decides (sha256 mod 10 = 0 is validation). A
file then stays on its side when other files come and go, and no file is on both sides. With one
file, or if the hash makes a side too short, the last tenth of the text is validation. Each document
ends with the end token of the tokenizer.

**Fingerprint.** The sha256 over names and contents, after decoding and normalization (encoding.py).
The standard library differs between versions and distributions, so a loss is only comparable
between runs with the same fingerprint. The fingerprint is printed with every result. Evaluating on
a text that is not the text of the run gives a warning, and a resumed run requires the same text.

**Batches.** One epoch cuts the training text into windows of `sequence_length` tokens, from a
random offset, and visits them in random order: every token once before any token twice. Sequence i
of the run is window i mod n of epoch i div n. Offset and order come from a counter-based generator
(Philox, Salmon et al. 2011) keyed by seed and epoch, so `batch(step)` is a pure function: resuming
and branching need no stored state. If states of the windows are stored, the offset is always 0.

A window carries 1 + depth more tokens, the targets of its last rows. They are read past the end of
the window (and around the end of the text), so the windows are the same for every depth.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from minimtp.arguments import SOURCE, several
from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quoting import shown_path
from minimtp.training.data import texts
from minimtp.training.data.document_tokens import require_expressible, tokens_of
from minimtp.training.data.encoding import checked_encoding
from minimtp.training.data.folders import Texts, files_and_folders
from minimtp.training.data.split import fingerprint, split
from minimtp.training.recipe import MAX_DRAFT_DEPTH
from minimtp.training.self_generated.stored import is_self_generated, read_texts
from minimtp.training.tokenizers.tokenizer import ByteTokenizer, Tokenizer

MAX_NAMES = 2  # of sources in the name of a corpus


class Corpus:
    """Training and validation tokens of some texts.

    sources, encoding: the arguments with which `open_corpus` finds the same texts.
    notes: lines for people about how the texts were read.
    fingerprint: hex sha256. split: "by file" or "by position". train, validation: (N,) unsigned
    integers. train_bytes, validation_bytes: bytes of text. files: the number of documents.
    more: how the user gets more text, for messages.
    """

    more = "give more text with --corpus"

    def __init__(
        self,
        name: str,
        documents: Texts,
        tokenizer: Tokenizer | None = None,
        sources: Sequence[str] = (),
        encoding: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.sources = list(sources)
        self.encoding = encoding
        self.notes = list(notes)
        self.tokenizer = tokenizer or ByteTokenizer()
        self.files = len(documents)
        self.fingerprint = fingerprint(documents)
        self.split, training, validation = split(documents)
        try:
            self.train, self.validation = (
                tokens_of(part, self.tokenizer) for part in (training, validation)
            )
        except UserError:
            require_expressible(documents, self.tokenizer)
            raise
        self.train_bytes, self.validation_bytes = (
            sum(map(len, part)) for part in (training, validation)
        )

    def describe(self) -> str:
        """Return a line for people: the sources, the split, and the fingerprint. Notes follow."""
        line = (
            f"{self.name}: {self.files} file{'s' * (self.files != 1)}, "
            f"{self.train_bytes:,} bytes to train on, "
            f"{self.validation_bytes:,} held out {self.split}, fingerprint {self.fingerprint[:16]}"
        )
        return "\n          ".join([line, *self.notes])

    def to_dict(self, folder: str | Path | None = None) -> dict[str, object]:
        """Return the description of the text that a checkpoint stores.

        folder: the run folder, relative to which `recorded` finds the text again after a move.
        """
        described = {"name": self.name, "sources": self.sources, "fingerprint": self.fingerprint}
        described["training_tokens"] = len(self.train)
        if self.encoding is not None:
            described["encoding"] = self.encoding
        if folder is not None:
            described["folder"] = str(Path(folder).resolve())
        return described

    def warning(self, trained_on: dict[str, object]) -> str | None:
        """Return a warning if a run was trained on another text, and so with another split.

        trained_on: the description of its text that the checkpoint of the run stores.
        """
        theirs = trained_on.get("fingerprint")
        if theirs == self.fingerprint:
            return None
        why = "does not say which text it was trained on"
        if theirs is not None:
            why = f"was trained on the text with fingerprint {theirs[:16]}, not on this one"
        return f"warning: the run {why}: it may have seen what is held out here"

    def require(
        self,
        batch_size: int,
        sequence_length: int,
        depth: int,
        otherwise: str = "lower batch_size or sequence_length",
    ) -> None:
        """Raise UserError unless the text fills one batch and the held-out part one window.

        otherwise: what the user of this command can do instead of giving more text, "" for nothing.
        """
        remedy = f"{self.more}, or {otherwise}" if otherwise else self.more
        needed = max(batch_size * sequence_length, sequence_length + 1 + depth)
        if len(self.train) < needed:
            raise UserError(
                f"{self.name} is too short: one batch of {batch_size} x {sequence_length} needs "
                f"{needed:,} tokens, and it has {len(self.train):,} to train on: {remedy}"
            )
        if len(self.validation) < sequence_length + 1 + depth:
            raise UserError(
                f"{self.name} is too short: its held-out part has {len(self.validation):,} tokens, "
                f"and one window needs {sequence_length + 1 + depth:,}: {remedy}"
            )

    def batch(
        self, step: int, *, seed: int, batch_size: int, sequence_length: int, depth: int = 0,
        aligned: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """Return the batch of a step, counted from 0.

        aligned: every epoch has the same windows, from the beginning of the text.
        The batch is (batch_size, sequence_length + 1 + depth) int64.
        """
        windows, offsets = self.batch_windows(step, seed, batch_size, sequence_length)
        first = windows * sequence_length + (0 if aligned else offsets)  # (B,)
        positions = first[:, None] + np.arange(sequence_length + 1 + depth)  # (B, T+1+depth)
        return self.train.take(positions, mode="wrap").astype(np.int64)

    def batch_windows(
        self, step: int, seed: int, batch_size: int, sequence_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the window (B,) of each sequence of a batch, and the offset (B,) of its epoch."""
        count, found = len(self.train) // sequence_length, []
        for sequence in range(step * batch_size, (step + 1) * batch_size):
            epoch, index = divmod(sequence, count)
            offset, order = _epoch_order(seed, epoch, count, sequence_length)
            found.append((order[index], offset))
        windows, offsets = np.array(found).T
        return windows, offsets

    def validation_windows(
        self, tokens: int, *, sequence_length: int, depth: int = 0
    ) -> np.ndarray:
        """Return at most `tokens` held-out tokens, as evenly spread windows that do not overlap.

        The windows are (W, sequence_length + 1 + depth) int64. They begin at the same places for
        every depth, so models with and without heads are evaluated on the same text.
        """
        targets = max(depth, min(MAX_DRAFT_DEPTH, len(self.validation) - sequence_length - 1))
        room = len(self.validation) - 1 - targets
        count = max(1, min(tokens, room) // sequence_length)
        slot = room / count  # each window lies in its own slot
        starts = np.array([int(slot * i) for i in range(count)])
        positions = starts[:, None] + np.arange(sequence_length + 1 + depth)[None, :]
        return self.validation[positions].astype(np.int64)


class TokenCorpus(Corpus):
    """Training and validation tokens that are given as tokens. Otherwise a `Corpus`.

    A `Corpus` turns text into tokens. A conversation cannot be made that way: the marks between its
    messages are special tokens, and no text encodes to them.

    train, validation: token ids (N,) of `tokenizer`, any integers. documents: their number. split:
    how the held-out part was chosen, for people. sources: where `open_corpus` finds the same
    tokens.

    A run on it stores the fingerprint, the sha256 over both parts. Without sources, it can only be
    resumed by making the same corpus again and passing it to `train`.
    """

    def __init__(
        self,
        name: str,
        train: Array,
        validation: Array,
        tokenizer: Tokenizer,
        documents: int = 1,
        split: str = "by document",
        notes: Sequence[str] = (),
        sources: Sequence[str] = (),
    ) -> None:
        self.name, self.encoding = name, None
        self.sources, self.notes = list(sources), list(notes)
        self.tokenizer, self.files, self.split = tokenizer, documents, split
        small = np.uint16 if tokenizer.vocabulary_size <= 2**16 else np.uint32
        self.train, self.validation = (
            np.asarray(part).astype(small) for part in (train, validation)
        )
        counts = tokenizer.byte_counts()
        self.train_bytes, self.validation_bytes = (
            int(counts[part].sum()) for part in (self.train, self.validation)
        )
        digest = hashlib.sha256()
        for part in (self.train, self.validation):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.astype("<u4").tobytes())
        self.fingerprint = digest.hexdigest()


def CORPUS(name: str, value: object) -> Corpus | list[str | Path]:
    """The kind of an argument (arguments.py): a Corpus, or sources for `open_corpus`."""
    return value if isinstance(value, Corpus) else _sources(name, value)


_sources = several(
    SOURCE, str, os.PathLike, expected="a Corpus, or a list of files, folders or a known text"
)


def open_corpus(
    sources: Sequence[str | Path] | str | Path = (),
    tokenizer: Tokenizer | None = None,
    encoding: str | None = None,
    *,
    out: str | Path | None = None,
    option: str = "--corpus",
) -> Corpus:
    """Return the corpus made of files and folders, or of one named source.

    sources: one or several paths, one folder of `minimtp selfgen`, or one of the names stdlib (the
        default), pydoc, shakespeare and bible.
    encoding: of the files that are not UTF-8 (encoding.py).
    out: the folder that the command writes. Its files of runs are not part of the text.
    option: the option of the command that takes the sources, for messages.

    Raises UserError for a source that is missing, unreadable, empty or binary, for an unknown
    encoding, and for tokens of another tokenizer.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    sources, encoding = list(sources) or ["stdlib"], checked_encoding(encoding)
    if len(sources) == 1 and sources[0] in texts.NAMED_SOURCES:
        name = str(sources[0])
        unused = [f"no effect of encoding {encoding}: {name} is in UTF-8"] if encoding else []
        return Corpus(name, texts.NAMED_SOURCES[name](), tokenizer, [name], notes=unused)
    named = [str(source) for source in sources if source in texts.NAMED_SOURCES]
    if named:
        raise UserError(
            f"{named[0]} is the name of a corpus, which cannot be combined with others: "
            f"give it alone, or ./{named[0]} for a file of that name"
        )
    generated = [source for source in sources if is_self_generated(source)]
    if generated:
        if len(sources) > 1:
            raise UserError(
                f"{shown_path(generated[0])} holds tokens that a model generated, which cannot be "
                "combined with other text: give it alone"
            )
        corpus = _self_generated(Path(generated[0]), tokenizer or ByteTokenizer())
        if encoding:
            corpus.notes.append(f"no effect of encoding {encoding}: the folder holds tokens")
        return corpus
    found = files_and_folders(sources, encoding, out=out, option=option)
    notes = []
    if encoding:
        counts = ", ".join(f"{n:,} in {name}" for name, n in found.encodings.most_common())
        notes.append(f"files read: {counts}")
    if found.skipped:
        notes.append(f"skipped: {found.skipped}")
    absolute = [str(path.resolve()) for path in found.paths]
    return Corpus(_name(found.paths), found.texts, tokenizer, absolute, encoding, notes)


def _self_generated(folder: Path, tokenizer: Tokenizer) -> TokenCorpus:
    """Return the tokens in a folder of `minimtp selfgen`."""
    found = read_texts(folder, tokenizer)
    corpus = TokenCorpus(
        shown_path(folder), *found.sides(), tokenizer, len(found.texts), notes=[found.describe()],
        sources=[str(folder.resolve())],
    )  # fmt: skip
    corpus.more = "raise --tokens of its minimtp selfgen command"
    return corpus


def _name(paths: Sequence[Path]) -> str:
    """Return a name for the texts at these paths."""
    names = [shown_path(path) for path in paths[:MAX_NAMES]]
    more = len(paths) - len(names)
    return " + ".join(names) + (f" and {more:,} more" if more else "")


@lru_cache(maxsize=4)
def _epoch_order(
    seed: int, epoch: int, windows: int, sequence_length: int
) -> tuple[int, np.ndarray]:
    """Return the offset of the first window and the order of the windows of one epoch."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return int(random.integers(sequence_length)), random.permutation(windows)
