"""What followed the last time these tokens occurred? Lookup in the text and in earlier texts.

**Problem.** `NgramDrafter` searches the text of one generation. But a chat quotes earlier answers,
and an editor sends almost the same file again, so earlier texts are worth searching too. And the
acceptance depends on the length of the repetition: after 2 equal tokens the text often continues
differently, after 16 it hardly ever does. The policy has to know which of them it pays for.

**Idea.** For each length n of LENGTHS, a dictionary maps n tokens to the place after their latest
occurrence. If n tokens did not occur before, no more tokens did, so a lookup begins with the
shortest length and usually ends there. It takes about a microsecond, however long the text is. A
token adds one entry to each dictionary.

**Memory.** Earlier texts stay until there are more than `memory` tokens of them. Then the older
half is forgotten. An entry takes about 150 bytes, so four lengths and 16,384 tokens take about
10 MB.
"""

from collections.abc import Sequence

LENGTHS = (2, 4, 8, 16)  # numbers of equal tokens; each is a class of repetitions
MEMORY = 16_384  # tokens of earlier texts
NOT_FOUND = -1


class Lookup:
    """The tokens of one text after another. memory: number of tokens of earlier texts to keep."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._tokens: list[int] = []
        self._start = 0  # place of the running text; earlier texts come before it
        self._end = ""  # its last tokens, one character each, because strings hash fast
        self._places: list[dict[str, int]] = [{} for _ in LENGTHS]

    def start(self) -> None:
        """Begin a new text. The text before becomes an earlier text."""
        self._end = ""
        if len(self._tokens) > self._memory:
            kept = self._tokens[len(self._tokens) - self._memory // 2 :]
            self._tokens, self._places = [], [{} for _ in LENGTHS]
            self.extend(kept)
            self._end = ""
        self._start = len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the running text."""
        known, end = self._tokens, self._end
        for token in tokens:
            # An entry is made when a token follows it.
            for length, places in zip(LENGTHS, self._places, strict=True):
                if len(end) < length:
                    break
                places[end[-length:]] = len(known)
            end = end[1 - LENGTHS[-1] :] + chr(token)
            known.append(token)
        self._end = end

    def find(self, own_text: bool = False) -> tuple[int, int]:
        """Return (class, place): the longest class of LENGTHS in which the end of the text
        occurred before, and the place after its latest occurrence; the class is NOT_FOUND if there
        is none.

        own_text: ignore earlier texts.
        """
        end, found, place = self._end, NOT_FOUND, 0
        earliest = self._start if own_text else 0
        for length, places in zip(LENGTHS, self._places, strict=True):
            latest = places.get(end[-length:], 0) if len(end) >= length else 0
            if latest <= earliest:
                break
            found, place = found + 1, latest
        return found, place

    def following(self, place: int, count: int) -> list[int]:
        """Return the `count` tokens from `place` on. Beyond the end, the text repeats with the
        period that an overlapping repetition has.
        """
        found = self._tokens[place : place + count]
        return [found[index % len(found)] for index in range(count)]
