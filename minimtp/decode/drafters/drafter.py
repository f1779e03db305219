"""Drafters: guesses at the next few tokens, cheap enough that being wrong costs little.

One interface for all of them. The loop in loop.py tells a drafter what was committed, and asks it for drafts:

    reset(first_token)         a new text begins; its first token
    commit(hidden, tokens)     R rows are committed: the target's hidden states (R, D) of consecutive positions (None if it
                               has none, or the drafter does not read them: `reads_hidden`), and the R tokens that follow
                               them; the last of these is the pending token
    draft(depth, rule)         drafts for the `depth` positions after the pending token, fewer if the drafter has no
                               idea, and the scores (depth, V) of the laws they were drawn from (verify.py), or
                               None: then each counts as certain

    twin()                     another drafter with the same weights, for another text; it shares nothing that changes

A drafter that can say what follows any path of drafted tokens may offer trees as well (decode/drafters/tree_growth.py):

    draft_tree(nodes, depth, rule, least_chance)   a tree of at most `nodes` drafts, at most `depth` behind one another, none
                                                   that is thought less likely to stand than `least_chance`

A drafter that knows how sure it is (`stops_early`) stops by its attribute `least_confidence` (0: never); it decides before it
draws a token, from the tokens before it, so that the text keeps its law.

A drafter sees committed rows only, never rejected ones, so nothing it keeps has to be rolled back. It draws its tokens
with `rule.draw`, which knows temperature and randomness (verify.py). Any drafter is *safe*: verification makes the text
the target's own whatever was drafted.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from minimtp.backend import numpy as np
from minimtp.decode.rules.trees import Tree
from minimtp.decode.rules.verify import Rule


class Drafter(Protocol):
    """See the module's docstring. Arrays given to `commit` are reused by the caller: copy what is kept."""

    max_depth: int
    reads_hidden: bool
    stops_early: bool
    min_confidence: float

    def clone(self) -> "Drafter": ...

    def reset(self, first_token: int) -> None: ...

    def commit(self, hidden: object | None, tokens: np.ndarray) -> None: ...

    def draft(
        self, depth: int, rule: Rule
    ) -> tuple[Sequence[int] | np.ndarray, np.ndarray | None]: ...


@runtime_checkable
class TreeDrafter(Protocol):
    """A drafter that can also draft trees."""

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree: ...


class FunctionDrafter:
    """Any function of the text so far: function(tokens, depth, rule) -> (drafts, scores or None)."""

    reads_hidden, stops_early, min_confidence = False, False, 0.0

    def __init__(self, function: Callable[[list[int], int, Rule], tuple], max_depth: int) -> None:
        self.function = function
        self.max_depth = max_depth
        self.tokens: list[int] = []

    def clone(self) -> "FunctionDrafter":
        return FunctionDrafter(self.function, self.max_depth)

    def reset(self, first_token: int) -> None:
        self.tokens = [first_token]

    def commit(self, hidden: object | None, tokens: np.ndarray) -> None:
        self.tokens += tokens.tolist()

    def draft(self, depth: int, rule: Rule) -> tuple[Sequence[int] | np.ndarray, np.ndarray | None]:
        return self.function(self.tokens, depth, rule)
