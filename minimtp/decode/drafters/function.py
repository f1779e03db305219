"""A function as a drafter."""

from collections.abc import Callable, Sequence

from minimtp.arguments import as_whole, refuse
from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.rule import Rule

Drafts = tuple[Sequence[int] | Array, np.ndarray | None]
DraftFunction = Callable[[list[int], int, Rule], Drafts]


class FunctionDrafter:
    """Drafts with any function of the text so far: function(tokens, depth, rule) -> (drafts, scores
    or None).

    vocabulary_size: of the target, to check the answers of a user's function (None: no checks).
    Then an answer that cannot be used raises UserError.
    """

    reads_hidden = False
    stops_early = False
    min_confidence = 0.0

    def __init__(
        self, function: DraftFunction, max_depth: int, vocabulary_size: int | None = None
    ) -> None:
        self.function = function
        self.vocabulary_size = vocabulary_size
        self.max_depth = max_depth
        self.tokens: list[int] = []

    def clone(self) -> "FunctionDrafter":
        return FunctionDrafter(self.function, self.max_depth, self.vocabulary_size)

    def reset(self, first_token: int) -> None:
        self.tokens = [first_token]

    def commit(self, hidden: Array | None, tokens: np.ndarray) -> None:
        self.tokens += tokens.tolist()

    def draft(self, depth: int, rule: Rule) -> Drafts:
        if self.vocabulary_size is None:
            return self.function(self.tokens, depth, rule)
        # A copy of the tokens, because the function may change them.
        return self._checked(self.function(list(self.tokens), depth, rule), depth)

    def _checked(self, answer: object, depth: int) -> tuple[list[int], np.ndarray | None]:
        """Return the answer. Raises UserError unless it is a pair of drafts and scores."""
        if not isinstance(answer, tuple) or len(answer) != 2:
            refuse("the answer of the draft function", "a pair (drafts, scores or None)", answer)
        drafts, scores = answer
        try:
            tokens = [as_whole(token) for token in to_numpy(drafts)]
        except (TypeError, ValueError):
            tokens = [None]
        size = self.vocabulary_size
        if len(tokens) > depth or any(t is None or not 0 <= t < size for t in tokens):
            refuse(
                "the drafts of the draft function",
                f"a list of at most {depth} tokens from 0 to {size - 1}",
                drafts,
            )
        if scores is None or not tokens:
            return tokens, None
        scores = to_numpy(scores)
        shape = len(tokens), size
        if getattr(scores, "shape", None) != shape or scores.dtype.kind != "f":
            refuse("the scores of the draft function", f"None or floats of shape {shape}", scores)
        return tokens, scores
