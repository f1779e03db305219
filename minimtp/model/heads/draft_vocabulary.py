"""The draft vocabulary: the few thousand tokens that a head may draft.

With 49,152 tokens, the output layer takes most of the time of a draft, and a few thousand tokens
make up nearly all of a model's text. A head that has logits only for these is several times
cheaper. It never drafts the other tokens, so the target chooses them itself. The output stays the
target's own for any drafts (as in FR-Spec, Zhao et al. 2025, arXiv 2502.14856, and EAGLE-3, Li et
al. 2025, arXiv 2503.01840).

The head has no output matrix of its own. Its logits are the rows of the trunk's output matrix with
the ids of these tokens, so the vocabulary is a list of ids, in increasing order. Index i of the
head's logits is the token ids[i]. A file holds the ids only. Decoding copies the rows, in the
format in which they are stored: 5 MB for 8,192 rows of SmolLM2-135M in Q8_0. There, on one Zen 4
core, a drafted token takes 2 % of the time of a forward pass with them, and 27 % with all 49,152
rows.

**Training.** The head learns a distribution over the draft vocabulary only. The trunk's
distribution is restricted to it and renormalized, so it is the softmax of the same few rows. A
position whose next token in the text is not in the vocabulary is left out: there the trunk gives
most of its probability to tokens that the head cannot draft, and says little about the others. If
the text was sampled from the trunk, a position therefore counts, on average, in proportion to the
probability that the vocabulary covers.
"""

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.engine.module import Indices, Module

COUNTED_AT_ONCE = 1 << 22  # tokens


class DraftVocabulary(Module):
    """The tokens that a head may draft: V' of the V tokens.

    ids: int32 (V',), increasing. A new vocabulary has the lowest ids, until the ids that belong to
    a run are chosen (`most_frequent_tokens`) or loaded.
    """

    def __init__(self, size: int, vocabulary_size: int) -> None:
        self.ids = Indices(np.arange(size, dtype=np.int32), vocabulary_size)

    def __len__(self) -> int:
        return len(self.ids.data)

    @property
    def tokens(self) -> np.ndarray:
        """The tokens of a head's logits, int64 (V',), increasing."""
        return self.ids.data.astype(np.int64)

    def indices_of(self, tokens: Array) -> Array:
        """tokens (N,) -> their indices (N,) in the vocabulary, -1 for tokens that are not in it."""
        xp = array_module(tokens)
        ids = xp.asarray(self.ids.data)
        found = xp.minimum(xp.searchsorted(ids, tokens), len(ids) - 1)
        return xp.where(ids[found] == tokens, found, -1)

    def coverage(self, text: Array) -> float:
        """Return the share of a text's tokens (N,) that are in the vocabulary, 1 if it is empty."""
        inside = sum(
            int((self.indices_of(np.asarray(text[start : start + COUNTED_AT_ONCE])) >= 0).sum())
            for start in range(0, len(text), COUNTED_AT_ONCE)
        )
        return inside / len(text) if len(text) else 1.0

    def tokens_at(self, indices: Array) -> Array:
        """Return the tokens, int64, at these indices of a head's logits."""
        return array_module(indices).asarray(self.ids.data)[indices].astype("int64")


def most_frequent_tokens(text: np.ndarray, size: int, vocabulary_size: int) -> np.ndarray:
    """Return the `size` most frequent tokens of a text (N,), int32, increasing.

    Ties go to the lowest id, so the choice is a function of the text alone, and a short text is
    filled up with the lowest ids. The merges of a byte-pair encoding are numbered in the order in
    which they were learned, so low ids are frequent tokens.
    """
    counts = np.zeros(vocabulary_size, np.int64)
    for start in range(0, len(text), COUNTED_AT_ONCE):
        part = np.asarray(text[start : start + COUNTED_AT_ONCE])
        counts += np.bincount(part, minlength=vocabulary_size)
    return np.sort(np.argsort(-counts, kind="stable")[:size]).astype(np.int32)
