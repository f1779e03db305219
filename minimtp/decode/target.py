"""The interface of a model that is decoded: forward passes over a few new tokens, and a cache that
can be truncated.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from minimtp.backend import Array
from minimtp.backend import numpy as np


class ForwardOutput(NamedTuple):
    """The result of a forward pass over T tokens."""

    logits: Array  # (T, V): row t predicts the token after token t
    # (T, W), for the drafters: the state after the final norm, and layers' inputs. W may be 0.
    hidden: Array


class Target(Protocol):
    """The model whose output is wanted, with the cache of one sequence. `ModelRunner` makes one
    from a model.

    A target must not keep the arrays that it receives, because the caller reuses them, and must not
    reuse the arrays that it returns.
    """

    vocabulary_size: int
    context_length: int
    length: int  # rows in its cache
    max_rows: int  # maximum number of prompt tokens per forward pass

    def forward(self, tokens: np.ndarray) -> ForwardOutput:
        """Feed (T,) int64 tokens after the cached rows, and append T rows to the cache."""

    def truncate(self, length: int) -> None:
        """Drop all cache rows from `length` on."""

    def clone(self) -> "Target":
        """Return the same model with an empty cache of its own, for another sequence."""


class TreeTarget(Target, Protocol):
    """A target that can verify trees of drafts (rules/tree.py)."""

    def forward_tree(self, tokens: Sequence[int], depths: Sequence[int]) -> ForwardOutput:
        """Feed the rows of a tree in depth-first order. The cache does not change until `keep` is
        called.
        """

    def keep(self, rows: Sequence[int]) -> None:
        """Append the rows of one path of the last tree, from its root on, to the cache."""
