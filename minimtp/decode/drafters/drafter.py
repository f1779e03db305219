"""The interface of a drafter.

The decoding loop (decode/generation.py) tells a drafter which tokens were committed, and asks it
for drafts:

    reset(first_token)      start a new sequence with this token
    commit(hidden, tokens)  R rows are committed: the target's hidden states (R, W) of consecutive
                            positions (`ForwardOutput`), and the R tokens that follow them; the last
                            is the pending token. hidden is None if the drafter does not read it
                            (`reads_hidden`) or the target has none
    draft(depth, rule)      return up to `depth` drafts (K,) for the positions after the pending
                            token, and their scores (K, V): the logarithms of the distributions
                            they were sampled from, up to a constant per row, of all tokens or
                            of some (`VocabularyScores`). Scores are None if the drafts count as
                            one-hot
    clone()                 return a drafter with the same weights for another sequence; the two
                            share no state that changes

A drafter samples its tokens with `rule.sample`, which knows temperature and random numbers
(rules/rule.py). It sees committed rows only, never rejected drafts, so nothing that it stores has
to be rolled back. Any drafter is safe: verification makes the text the target's own, for any
drafts.

A drafter that knows how sure it is (`stops_early`) ends its draft when the probability it gives to
the whole draft falls below `min_confidence` (0: never). It decides before it samples a token, from
the tokens before it, so the output keeps the target's distribution.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode.rules.rule import Rule, Scores
from minimtp.decode.rules.tree import Tree


class Drafter(Protocol):
    """See the module's docstring. Copy the arrays given to `commit` if you keep them, because the
    caller reuses them.
    """

    max_depth: int
    reads_hidden: bool
    stops_early: bool
    min_confidence: float

    def clone(self) -> "Drafter": ...

    def reset(self, first_token: int) -> None: ...

    def commit(self, hidden: Array | None, tokens: np.ndarray) -> None: ...

    def draft(self, depth: int, rule: Rule) -> tuple[Sequence[int] | Array, Scores | None]: ...


@runtime_checkable
class TreeDrafter(Protocol):
    """A drafter that can also draft trees, because it knows what may follow any path of drafted
    tokens (tree_growth.py).
    """

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree:
        """Return a tree of up to `nodes` drafts, at most `depth` deep, without drafts that are less
        likely to be accepted than `min_acceptance`.
        """


@runtime_checkable
class SourcesDrafter(Protocol):
    """A drafter that chooses one of several sources in each round (combined.py).

    depths: the maximum draft depth of each source. lookups: number of sources, the first ones,
    whose drafts take no time. source: the source of the last draft, None if there was none.
    """

    depths: Sequence[int]
    lookups: int
    source: int | None

    def draft_from(
        self, depths: Sequence[int], depth: int, rule: Rule
    ) -> tuple[Sequence[int] | Array, Scores | None]:
        """Draft as `draft` does, with at most `depths` drafts of each source; 0 leaves it out."""


def is_prompt(tokens: np.ndarray, max_depth: int) -> bool:
    """Return whether tokens (R,) that are committed are more than a round commits.

    A drafter computes the rows of a prompt at once, so that they do not count as drafting.
    """
    return len(tokens) > max_depth + 1


def join_samples(
    samples: Sequence[tuple[Array, np.ndarray | None]],
) -> tuple[Sequence[int] | Array, np.ndarray | None]:
    """Join the results of several `rule.sample`: tokens (K,), and scores (K, V) or None."""
    if not samples:
        return [], None
    tokens, scores = zip(*samples, strict=True)
    joined = array_module(tokens[0]).concatenate(tokens)
    return joined, None if scores[0] is None else np.concatenate(scores)


def of_all_tokens(logits: Array, ids: Array | None, vocabulary_size: int) -> Array:
    """Return the logits (1, V) of all tokens, given those (1, V') of a draft vocabulary (V',).

    The other tokens have -inf, so a rule never samples them, and sees the distribution that drafts
    are sampled from. Without a draft vocabulary (None), these are all tokens.
    """
    if ids is None:
        return logits
    every = array_module(logits).full((1, vocabulary_size), -np.inf, logits.dtype)
    every[:, ids] = logits
    return every


class Backlog:
    """The committed rows for `drafter` since the last delivery."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._hidden: list[Array] = []
        self._tokens: list[np.ndarray] = []

    def add(self, hidden: Array | None, tokens: np.ndarray) -> None:
        """Add the tokens (R,) and their hidden states (R, W), as of `Drafter.commit`."""
        if self._drafter.reads_hidden and hidden is not None:
            self._hidden.append(hidden)
        self._tokens.append(tokens)

    def clear(self) -> None:
        """Forget the rows, because a new sequence starts."""
        self._hidden, self._tokens = [], []

    def deliver(self) -> None:
        """Commit the rows to the drafter."""
        tokens, hidden = self._tokens, self._hidden
        if tokens:
            self._drafter.commit(_joined(hidden) if hidden else None, _joined(tokens))
            self.clear()


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else array_module(parts[0]).concatenate(parts)
