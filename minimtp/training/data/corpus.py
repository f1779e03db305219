"""A corpus: text as tokens, split into training and validation, read in batches that depend on nothing but seed and
step.

**Split.** Many files: by the hash of each file's name (sha256 mod 10 = 0 is validation), so that a file keeps its
side when others come and go, and no file stands on both sides. One file, or a hash that leaves a side too short: by
position, the last tenth is validation. Each document ends with the tokenizer's end token.

**Fingerprint.** sha256 over names and contents. The standard library differs between versions and distributions, so a
loss belongs to a fingerprint; it is printed with every result, evaluating another text than the run's warns, and a
resumed run insists on it.

**Batches.** One epoch cuts the training text into windows of `context` tokens, starting at a random offset, and
visits them in random order: every token once before any twice. Sequence i of the run is window i mod n of epoch i div
n. Offset and order come from a counter-based generator (Philox, Salmon et al. 2011) keyed by seed and epoch, so
`batch(step)` is a pure function: resuming and branching need no stored state. A window carries 1 + depth more tokens
than the context, the targets of its last rows; they are read past the window's end (around the text's end), so the
windows are the same for every depth.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.training.data import texts
from minimtp.training.data.tokenizer import ByteTokenizer, Tokenizer
from minimtp.training.recipe import SETTINGS

DEEPEST = (
    SETTINGS["draft_depth"].metadata["allowed"].high
)  # tokens after the next that any model predicts


class Corpus:
    """Training and validation tokens of some texts.

    Attributes: name, sources (what `open_corpus` finds the same texts by), fingerprint (hex sha256), split ("by file" |
    "by position"), tokenizer, train and validation ((N,) unsigned integer arrays), train_bytes and validation_bytes (of
    text), files (how many).
    """

    def __init__(
        self,
        name: str,
        documents: texts.Texts,
        tokenizer: Tokenizer | None = None,
        sources: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.sources = list(sources)
        self.tokenizer = tokenizer or ByteTokenizer()
        self.files = len(documents)
        self.fingerprint = fingerprint(documents)
        self.split, training, validation = split(documents)
        self.train, self.validation = (
            _tokens(part, self.tokenizer) for part in (training, validation)
        )
        self.train_bytes, self.validation_bytes = (
            sum(map(len, part)) for part in (training, validation)
        )

    def describe(self) -> str:
        """One line for people: what was read, how it was split, and its fingerprint."""
        return (
            f"{self.name}: {self.files} file{'s' * (self.files != 1)}, {self.train_bytes:,} bytes to train on, "
            f"{self.validation_bytes:,} held out {self.split}, fingerprint {self.fingerprint[:16]}"
        )

    def to_dict(self) -> dict[str, object]:
        """What a checkpoint says about the text it was trained on."""
        return {"name": self.name, "sources": self.sources, "fingerprint": self.fingerprint}

    def warning(self, trained_on: dict[str, object]) -> str | None:
        """A sentence where `trained_on`, what a checkpoint says, is another text: of that another part was held out."""
        theirs = trained_on.get("fingerprint")
        if theirs == self.fingerprint:
            return None
        why = "does not say which text it was trained on"
        if theirs is not None:
            why = f"was trained on the text with fingerprint {theirs[:16]}, not on this one"
        return f"warning: the run {why}: it may have seen what is held out here"

    def require(self, batch_size: int, context_length: int, depth: int) -> None:
        """Raise UserError unless the text fills one batch, and its held-out part one window."""
        needed = max(batch_size * context_length, context_length + 1 + depth)
        if len(self.train) < needed:
            raise UserError(
                f"{self.name} is too short: one batch of {batch_size} x {context_length} needs {needed:,} tokens, and it has "
                f"{len(self.train):,} to train on: give more text, or lower batch_size or context_length"
            )
        if len(self.validation) < context_length + 1 + depth:
            raise UserError(
                f"{self.name} is too short: its held-out part has {len(self.validation):,} tokens and one window "
                f"needs {context_length + 1 + depth:,}: give more text, or lower the context"
            )

    def batch(
        self, step: int, *, seed: int, batch_size: int, context_length: int, depth: int = 0
    ) -> np.ndarray:
        """The batch of step `step` (counted from 0): (batch_size, context_length + 1 + depth) int64."""
        windows = len(self.train) // context_length
        rows = []
        for sequence in range(step * batch_size, (step + 1) * batch_size):
            epoch, index = divmod(sequence, windows)
            offset, order = _epoch_order(seed, epoch, windows, context_length)
            rows.append(offset + order[index] * context_length)
        positions = (
            np.array(rows)[:, None] + np.arange(context_length + 1 + depth)[None, :]
        )  # (B, T+1+depth)
        return self.train.take(positions, mode="wrap").astype(np.int64)

    def validation_windows(self, tokens: int, *, context_length: int, depth: int = 0) -> np.ndarray:
        """At most `tokens` held-out tokens as non-overlapping windows spread evenly: (W, context + 1 + depth) int64.

        The windows begin at the same places for every depth: models with and without heads are measured on the same text.
        """
        targets = max(depth, min(DEEPEST, len(self.validation) - context_length - 1))
        room = len(self.validation) - 1 - targets
        count = max(1, min(tokens, room) // context_length)
        slot = room / count  # every window lies in a slot of its own
        starts = np.array([int(slot * i) for i in range(count)])
        positions = starts[:, None] + np.arange(context_length + 1 + depth)[None, :]
        return self.validation[positions].astype(np.int64)


def open_corpus(sources: Sequence[str | Path] = (), tokenizer: Tokenizer | None = None) -> Corpus:
    """The corpus made of `sources`: files, folders, or one of the names stdlib (the default), shakespeare, bible.

    Raises UserError for a source that is missing, unreadable, empty or binary.
    """
    sources = list(sources) or ["stdlib"]
    if len(sources) == 1 and sources[0] in texts.NAMED_SOURCES:
        name = str(sources[0])
        return Corpus(name, texts.NAMED_SOURCES[name](), tokenizer, [name])
    named = [str(source) for source in sources if source in texts.NAMED_SOURCES]
    if named:
        raise UserError(
            f"{named[0]} is a corpus of its own: give it alone, or ./{named[0]} for a file of that name"
        )
    documents = texts.files_and_folders(sources)
    absolute = [str(Path(source).resolve()) for source in sources]
    return Corpus(" + ".join(map(str, sources)), documents, tokenizer, absolute)


def fingerprint(documents: texts.Texts) -> str:
    """sha256 over all names and contents, each with its length before it."""
    digest = hashlib.sha256()
    for name, content in documents:
        for part in (name.encode("utf-8", "surrogateescape"), content):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def split(documents: texts.Texts) -> tuple[str, list[bytes], list[bytes]]:
    """("by file" | "by position", training contents, validation contents)."""
    validation = [content for name, content in documents if is_held_out(name)]
    training = [content for name, content in documents if not is_held_out(name)]
    total = sum(len(content) for _, content in documents)
    if 0.02 * total < sum(map(len, validation)) < 0.3 * total:
        return "by file", training, validation
    training, validation, left = [], [], total - total // 10
    for _, content in documents:
        if left > 0:
            training.append(content[:left])
        if left < len(content):
            validation.append(content[max(0, left) :])
        left -= len(content)
    return "by position", training, validation


def is_held_out(name: str) -> bool:
    """Whether the file of this name is on the validation side of a split by file."""
    return (
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest(), "big") % 10
        == 0
    )


def _tokens(contents: list[bytes], tokenizer: Tokenizer) -> np.ndarray:
    small = np.uint16 if tokenizer.vocabulary_size <= 2**16 else np.uint32
    end = np.array([tokenizer.end_token], small)
    parts = [
        part for content in contents for part in (tokenizer.encode(content).astype(small), end)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, small)


@lru_cache(maxsize=4)
def _epoch_order(
    seed: int, epoch: int, windows: int, context_length: int
) -> tuple[int, np.ndarray]:
    """(offset of the first window, order of the windows) of one epoch."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return int(random.integers(context_length)), random.permutation(windows)
