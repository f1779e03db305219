"""What a model has to offer to be decoded with: passes over a few tokens, and a cache whose end can be forgotten."""

from collections.abc import Sequence
from typing import Protocol

from minimtp.backend import numpy as np


class Step(Protocol):
    """What one pass of a target returns: logits (T, V), and hidden (T, D) or None."""

    logits: object
    hidden: object


class Target(Protocol):
    """The model whose text is wanted. Arrays it is given are reused by the caller: it must not keep them."""

    vocabulary_size: int
    context_length: int
    length: int  # rows in its cache
    max_rows: int  # of a pass over a prompt; a longer one is fed in pieces

    def forward(self, tokens: np.ndarray) -> Step:
        """Feed (T,) int64 tokens behind the cached rows; appends T rows to the cache. What it returns is not used again."""

    def truncate(self, length: int) -> None:
        """Forget the rows at and beyond `length`."""

    def clone(self) -> "Target":
        """The same model with an empty cache of its own, for another text."""

    def forward_tree(self, tokens: Sequence[int], depths: Sequence[int]) -> Step:
        """Feed the rows of a tree, in depth-first order; the cache stays as it is. For trees only, as is `keep`."""

    def keep(self, rows: Sequence[int]) -> None:
        """Append these rows of the tree that was fed last, a path that begins at its root."""
