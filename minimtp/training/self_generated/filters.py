"""What is dropped from self-generated text: loops and duplicates.

Small models fall into loops, and heads that learn from them predict loops. A greedy model gives
similar questions the same answer, which teaches nothing new.

A text that comes into a loop has been ended there (decode/batched/loops.py). Here it is dropped if
the loop is most of it.

A model that writes hardly anything else is left as it is: its heads will draft loops too.
"""

import hashlib
from collections.abc import Iterable, Sequence

from minimtp.backend import numpy as np
from minimtp.decode.batched.loops import is_repetitive
from minimtp.training.self_generated.stored import StoredText, Tally

SAME_BEGINNING = 24  # tokens; two texts of a kind that begin with the same ones are duplicates
MIN_KEPT = 0.25  # of the new tokens; a part that would keep fewer keeps what it must


class Filter:
    """Drops loops and duplicates, from one part after another."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def add(self, kept: Iterable[StoredText]) -> None:
        """Know the texts of a part that was written before."""
        for text in kept:
            self._known |= _marks(text)

    def part(self, texts: Sequence[StoredText]) -> tuple[list[StoredText], dict[str, Tally]]:
        """Return the texts that are kept, in their order, and the numbers of each kind."""
        total = sum(text.new_tokens for text in texts)
        loops = {i for i, text in enumerate(texts) if any(map(is_repetitive, text.answers))}
        if _tokens(texts, loops) < MIN_KEPT * total:
            loops = set()
        known, duplicates = set(self._known), set()
        for i, text in enumerate(texts):
            if i not in loops:
                marks = _marks(text)
                if known & marks:
                    duplicates.add(i)
                else:
                    known |= marks
        if _tokens(texts, loops | duplicates) < MIN_KEPT * total:
            duplicates = set()
        kept = [text for i, text in enumerate(texts) if i not in loops | duplicates]
        self.add(kept)
        tallies = {text.kind: Tally() for text in texts}
        for i, text in enumerate(texts):
            tallies[text.kind].add(text, i in loops, i in duplicates)
        return kept, tallies


def _tokens(texts: Sequence[StoredText], dropped: set[int]) -> int:
    """Return the number of new tokens of the texts that are not dropped."""
    return sum(text.new_tokens for i, text in enumerate(texts) if i not in dropped)


def _marks(text: StoredText) -> set[bytes]:
    """Return what no other text may share with this one: all its tokens, and its beginning."""
    whole = _digest("", [*text.prompt, *text.tokens])
    return {whole, _digest(text.kind, text.tokens[:SAME_BEGINNING])}


def _digest(kind: str, tokens: Sequence[int]) -> bytes:
    content = kind.encode() + b" " + np.array(tokens, np.int64).tobytes()
    return hashlib.sha256(content).digest()[:16]
