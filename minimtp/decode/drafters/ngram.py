"""Drafting by lookup: what followed the last time this n-gram occurred?

Code, quotations, tables and lists repeat themselves word for word. So the drafter searches the text
for an earlier occurrence of its longest repeated suffix, and drafts the tokens that followed there
(Saxena 2023, "Prompt lookup decoding"). It needs no model and no training. If the text does not
repeat itself, it drafts nothing.

If the earlier occurrence overlaps the suffix, as in "abcabca", the text repeats with a period, here
3. The draft then continues with the same period, up to any length.

**Time.** Usually there is no repetition, and it takes half a microsecond to find that out. A set
holds all n-grams of the minimum length. It is updated when a draft is requested. The text is
searched only if its last n-gram is in the set. If a suffix occurs earlier, so does every shorter
suffix, so the longest one is found by bisection.

Drafts are one-hot (q(d) = 1): the target accepts a draft d with its own probability of d.
"""

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.decode.rules.rule import Rule
from minimtp.model.config import MAX_DRAFTS


class NgramDrafter:
    """Drafts what followed the latest earlier occurrence of the text's longest repeated suffix.

    min_length, max_length: minimum number of tokens that must be repeated, and maximum number that
    is compared. A longer repetition allows a longer draft: after a repetition of n tokens it has at
    most 2 n tokens.
    """

    reads_hidden = False
    stops_early = False
    min_confidence = 0.0

    def __init__(
        self, max_depth: int = MAX_DRAFTS, max_length: int = 12, min_length: int = 3
    ) -> None:
        self.max_depth = max_depth
        self.max_length, self.min_length = max_length, min_length
        self.reset(0)

    def clone(self) -> "NgramDrafter":
        return NgramDrafter(self.max_depth, self.max_length, self.min_length)

    def reset(self, first_token: int) -> None:
        self._text = chr(first_token)  # one character per token, because strings search fast
        self._seen: set[str] = set()  # the n-grams of `min_length` tokens that end before _known
        self._known = self.min_length

    def commit(self, hidden: Array | None, tokens: np.ndarray) -> None:
        self._text += "".join(map(chr, tokens.tolist()))

    def draft(self, depth: int, rule: Rule) -> tuple[list[int], None]:
        text, min_length = self._text, self.min_length
        for end in range(self._known, len(text)):
            self._seen.add(text[end - min_length : end])
        self._known = max(self._known, len(text))
        if len(text) <= min_length or text[-min_length:] not in self._seen:
            return [], None
        length, place = longest_repeated_suffix(text, min_length, self.max_length)
        start = place + length
        period = len(text) - start
        count = min(depth, 2 * length)
        return [ord(text[start + index % period]) for index in range(count)], None


def longest_repeated_suffix(text: str, min_length: int, max_length: int) -> tuple[int, int]:
    """Return the length of the longest repeated suffix and the start of its latest earlier
    occurrence. One of min_length must occur.
    """
    found, missing = min_length, min(max_length, len(text) - 1) + 1  # a length that does not occur
    place = text.rfind(text[-found:], 0, -1)
    while missing - found > 1:
        tried = (found + missing) // 2
        earlier = text.rfind(text[-tried:], 0, -1)
        if earlier < 0:
            missing = tried
        else:
            found, place = tried, earlier
    return found, place
