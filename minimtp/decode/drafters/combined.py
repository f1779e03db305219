"""Drafting from several sources: repetitions in the text, and prediction heads for the rest.

A lookup takes a microsecond and is nearly always right in code that repeats itself, but finds
nothing in most other rounds. Heads can always draft, but each drafted token takes time, and it is
right less often. So each round has one source:

    a lookup   if the end of the text occurred before (lookup.py); each class of repetitions, by
               length, is a source of its own, because it has its own acceptance
    the heads  otherwise, or if they are better than a repetition of this class
    nothing    if no source pays

The policy (policy/sources.py) learns the acceptance and the time of each source, and plans a depth
for each: 0 leaves it out. The choice in a round then takes no time.

**Exactness.** The drafter only proposes. Drafts that depend on earlier texts change nothing in a
greedy text or with shared noise. With rejection sampling the number of random numbers depends on
the drafts, so earlier texts are ignored there: the same seed gives the same text.

**Clones** have a memory of their own, which starts empty. Texts that follow one another in one
decoder use the same drafter, so they share its memory. Texts that run at the same time do not.
"""

from collections.abc import Sequence

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Backlog, Drafter, is_prompt
from minimtp.decode.drafters.lookup import LENGTHS, MEMORY, NOT_FOUND, Lookup
from minimtp.decode.rules.rule import Coupling, Rule, Scores
from minimtp.model.config import MAX_DRAFTS

HEADS = len(LENGTHS)  # the number of the source after the lookups


class CombinedDrafter:
    """Drafts from a lookup, or with `heads` (None: lookups only).

    memory: number of tokens of earlier texts that lookups search; 0 searches only the running text,
    so that a repeated measurement does not find its own result. depths, lookups, source: see
    `SourcesDrafter`.
    """

    lookups = len(LENGTHS)

    def __init__(self, heads: Drafter | None = None, memory: int = MEMORY) -> None:
        self._heads, self._memory = heads, memory
        self._lookup = Lookup(memory)
        self.depths = [min(2 * length, MAX_DRAFTS) for length in LENGTHS]
        self.source: int | None = None
        self._backlog: Backlog | None = None
        if heads is not None:
            self.depths.append(heads.max_depth)
            self._backlog = Backlog(heads)  # of the heads, which often do not draft
        self.max_depth = max(self.depths)
        self.reads_hidden = heads is not None and heads.reads_hidden
        self.stops_early = heads is not None and heads.stops_early

    @property
    def min_confidence(self) -> float:
        """Of the heads. Repetitions have no probability."""
        return 0.0 if self._heads is None else self._heads.min_confidence

    @min_confidence.setter
    def min_confidence(self, value: float) -> None:
        if self._heads is not None:
            self._heads.min_confidence = value

    def clone(self) -> "CombinedDrafter":
        return CombinedDrafter(None if self._heads is None else self._heads.clone(), self._memory)

    def reset(self, first_token: int) -> None:
        self._lookup.start()
        self._lookup.extend([first_token])
        if self._heads is not None:
            self._heads.reset(first_token)
            self._backlog.clear()

    def commit(self, hidden: Array | None, tokens: np.ndarray) -> None:
        self._lookup.extend(tokens.tolist())
        if self._heads is not None:
            self._backlog.add(hidden, tokens)
            if is_prompt(tokens, self._heads.max_depth):
                self._backlog.deliver()

    def draft(self, depth: int, rule: Rule) -> tuple[Sequence[int] | Array, Scores | None]:
        return self.draft_from(self.depths, depth, rule)

    def draft_from(
        self, depths: Sequence[int], depth: int, rule: Rule
    ) -> tuple[Sequence[int] | Array, Scores | None]:
        """Draft as `draft` does, with at most `depths` drafts of each source."""
        self.source = None
        own_text = rule.coupling is Coupling.REJECTION_SAMPLING
        kind, place = self._lookup.find(own_text)
        if kind != NOT_FOUND and depths[kind]:
            self.source = kind
            return self._lookup.following(place, min(depth, depths[kind])), None
        if self._heads is not None and depths[HEADS]:
            self.source = HEADS
            self._backlog.deliver()
            return self._heads.draft(min(depth, depths[HEADS]), rule)
        return [], None
