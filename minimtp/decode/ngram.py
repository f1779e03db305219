"""Drafting by looking up: what followed the last time the text said this?

Code, quotations, tables and lists repeat themselves word for word. So the longest end of the text that occurs earlier in it is
searched, and what stood behind the earlier place is the draft (Saxena 2023, "Prompt lookup decoding"). No model, no training,
about a microsecond; on text that does not repeat itself it proposes nothing.

Where the earlier place overlaps the end, as in "abcabca", its continuation is the draft itself: the text goes on with period
3, and so does the draft, to any length.

A draft is certain of itself, its law is one-hot: verification accepts a draft d with the target's own probability of d.
"""

from minimtp.backend import numpy as np
from minimtp.decode.verify import Rule


class NgramDrafter:
    """Proposes what followed the latest earlier occurrence of the longest repeated end of the text.

    longest, shortest: how many tokens must be repeated, at most tried and at least needed. A token more of evidence is one
    more token drafted: after a repetition of n tokens at most 2 n are proposed.
    """

    least_confidence = 0.0

    def __init__(self, max_depth: int = 15, longest: int = 12, shortest: int = 3) -> None:
        self.max_depth = max_depth
        self.longest, self.shortest = longest, shortest
        self._text = ""  # a character for each token: searching is then what strings are best at

    def twin(self) -> "NgramDrafter":
        return NgramDrafter(self.max_depth, self.longest, self.shortest)

    def reset(self, first_token: int) -> None:
        self._text = chr(first_token)

    def commit(self, hidden: object | None, tokens: np.ndarray) -> None:
        self._text += "".join(map(chr, tokens.tolist()))

    def draft(self, depth: int, rule: Rule) -> tuple[list[int], None]:
        text = self._text
        for repeated in range(min(self.longest, len(text) - 1), self.shortest - 1, -1):
            place = text.rfind(text[-repeated:], 0, -1)
            if place >= 0:
                start = place + repeated
                period = len(text) - start
                count = min(depth, 2 * repeated)
                return [ord(text[start + index % period]) for index in range(count)], None
        return [], None
