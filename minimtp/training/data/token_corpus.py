"""A corpus of tokens that are ready: text that a model wrote, and mixtures of corpora.

A `Corpus` turns text into tokens. A conversation cannot be made that way: the marks between its
messages are special tokens, and no text encodes to them. So a `TokenCorpus` takes the tokens.
"""

import hashlib
from collections.abc import Sequence

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.training.data.corpus import Corpus
from minimtp.training.data.tokenizer import Tokenizer


class TokenCorpus(Corpus):
    """Training and validation tokens that are given as tokens. Otherwise a `Corpus`.

    train, validation: token ids (N,) of `tokenizer`, any integers. documents: their number. split:
    how the held-out part was chosen, for people. notes: lines for people.

    A run on it stores the fingerprint, the sha256 over both parts, but no sources. To resume the
    run, make the same corpus again and pass it to `train`.
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
    ) -> None:
        self.name, self.sources, self.encoding, self.notes = name, [], None, list(notes)
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
