"""Drafting by looking up: what followed the last time the text said this?

Code, quotations, tables and lists repeat themselves word for word. So the longest end of the text that occurs earlier in it is
searched, and what stood behind the earlier place is the draft (Saxena 2023, "Prompt lookup decoding"). No model, no training;
on text that does not repeat itself it proposes nothing.

Where the earlier place overlaps the end, as in "abcabca", its continuation is the draft itself: the text goes on with period
3, and so does the draft, to any length.

**Time.** Mostly the answer is that there is nothing, and then it costs half a microsecond: which of the shortest ends that
count were said before is kept in a set, brought up to date when a draft is asked for. Only where the text did repeat itself is
it searched, and since an end that occurs earlier has no shorter end that does not, by halving.

A draft is certain of itself, its law is one-hot: verification accepts a draft d with the target's own probability of d.
"""

from minimtp.backend import numpy as np
from minimtp.decode.rules.verify import Rule


class NgramDrafter:
    """Proposes what followed the latest earlier occurrence of the longest repeated end of the text.

    longest, shortest: how many tokens must be repeated, at most tried and at least needed. A token more of evidence is one
    more token drafted: after a repetition of n tokens at most 2 n are proposed.
    """

    reads_hidden, stops_early, min_confidence = False, False, 0.0

    def __init__(self, max_depth: int = 15, longest: int = 12, shortest: int = 3) -> None:
        self.max_depth = max_depth
        self.longest, self.shortest = longest, shortest
        self.reset(0)

    def clone(self) -> "NgramDrafter":
        return NgramDrafter(self.max_depth, self.longest, self.shortest)

    def reset(self, first_token: int) -> None:
        self._text = chr(
            first_token
        )  # a character for each token: searching is then what strings are best at
        self._said: set[str] = set()  # every stretch of `shortest` tokens that ends before _known
        self._known = self.shortest

    def commit(self, hidden: object | None, tokens: np.ndarray) -> None:
        self._text += "".join(map(chr, tokens.tolist()))

    def draft(self, depth: int, rule: Rule) -> tuple[list[int], None]:
        text, shortest = self._text, self.shortest
        for end in range(self._known, len(text)):
            self._said.add(text[end - shortest : end])
        self._known = max(self._known, len(text))
        if len(text) <= shortest or text[-shortest:] not in self._said:
            return [], None
        repeated, place = self._longest_repeated_end()
        start = place + repeated
        period = len(text) - start
        count = min(depth, 2 * repeated)
        return [ord(text[start + index % period]) for index in range(count)], None

    def _longest_repeated_end(self) -> tuple[int, int]:
        """(how many tokens, at most `longest`; where they begin at the latest earlier place) of an end that was said before."""
        text, known, least_missing = (
            self._text,
            self.shortest,
            min(self.longest, len(self._text) - 1) + 1,
        )
        place = text.rfind(text[-known:], 0, -1)
        while least_missing - known > 1:
            tried = (known + least_missing) // 2
            found = text.rfind(text[-tried:], 0, -1)
            if found < 0:
                least_missing = tried
            else:
                known, place = tried, found
        return known, place
