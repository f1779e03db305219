"""The additions of a generation to a drafter: checks, stops, pauses and timing. They are not
visible to the round (round.py).

* A drafter's answer is checked before it is verified, so a faulty drafter is an error and never a
  wrong text.
* A chain of drafts ends with a stop token, or with the token that completes a stop string.
* In a round that drafts nothing (a pause), the drafter does not run. Its share of the committed
  text is saved, and delivered in one piece when it is next asked for a draft. So a pause takes as
  long as plain decoding.
* `seconds` adds up the time spent in the drafter.
"""

from collections.abc import Sequence
from time import perf_counter

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Backlog, Drafter
from minimtp.decode.rules.rule import Rule, Scores
from minimtp.decode.rules.tree import Tree
from minimtp.decode.stopping import Stop

NO_DRAFTS: tuple[list[int], None] = ([], None)


class ManagedDrafter:
    """`drafter` as a generation uses it; without one (None) it drafts nothing."""

    def __init__(self, drafter: Drafter | None, stop: Stop, vocabulary_size: int) -> None:
        self.seconds = 0.0
        self.depths: Sequence[int] = ()  # maximum depth of each source, if there are several
        self._drafter, self._stop, self._vocabulary_size = drafter, stop, vocabulary_size
        self._backlog = None if drafter is None else Backlog(drafter)
        self._paused = False  # whether the current round drafts nothing

    @property
    def source(self) -> int | None:
        """The source of the current round's drafts, if the drafter has several and used one."""
        return self._drafter.source if self.depths and not self._paused else None

    def reset(self, first_token: int) -> None:
        if self._drafter is not None:
            self._drafter.reset(first_token)

    def draft(self, depth: int, rule: Rule) -> tuple[list[int], Scores | None]:
        """Return at most `depth` drafts, cut after the first stop.

        Raises ValueError if the drafter gave too many, or unknown tokens.
        """
        self._paused = depth == 0
        if self._paused:
            return NO_DRAFTS
        started = perf_counter()
        self._backlog.deliver()
        if self.depths:
            proposed, scores = self._drafter.draft_from(self.depths, depth, rule)
        else:
            proposed, scores = self._drafter.draft(depth, rule)
        drafts = proposed if isinstance(proposed, list) else to_numpy(proposed).tolist()
        if drafts:
            self._check(drafts, depth)
            kept = self._stop.find(drafts)
            if kept is not None:
                drafts, scores = drafts[:kept], None if scores is None else scores[:kept]
        self.seconds += perf_counter() - started
        return drafts, scores

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree:
        self._paused = False
        started = perf_counter()
        self._backlog.deliver()
        tree = self._drafter.draft_tree(nodes, depth, rule, min_acceptance)
        self._check(tree.tokens[1:], nodes)
        self.seconds += perf_counter() - started
        return tree

    def commit(self, hidden: Array, tokens: np.ndarray) -> None:
        if self._drafter is None:
            return
        if self._paused:
            self._backlog.add(hidden, tokens)
        else:
            started = perf_counter()
            self._drafter.commit(hidden if self._drafter.reads_hidden else None, tokens)
            self.seconds += perf_counter() - started

    def _check(self, drafts: Sequence[int], limit: int) -> None:
        size = self._vocabulary_size
        if len(drafts) > limit or min(drafts, default=0) < 0 or max(drafts, default=0) >= size:
            name = type(self._drafter).__name__
            raise ValueError(f"asked for {limit} drafts below {size}, {name} gave {list(drafts)}")
