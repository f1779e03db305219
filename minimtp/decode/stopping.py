"""Stop conditions: a text ends at a stop token, or when a stop string is complete.

A stop string may begin in one token and end in another, or lie in the middle of one. The text ends
with the first token that completes the string. That token is kept whole, and so is a stop token.
The prompt does not count.

The same question is asked about drafts, which are not committed yet, and about committed tokens. So
`find` does not change the state, and `extend` does.
"""

from collections.abc import Callable, Iterable, Sequence

from minimtp.errors import UserError

DecodeBytes = Callable[[Sequence[int]], bytes]


class Stop:
    """The stop conditions of one text: any of `tokens`, or any of `strings`, found with
    `decode_bytes`.

    Raises UserError if a string is empty, and ValueError if there are strings but no decode_bytes.
    """

    def __init__(
        self,
        tokens: Iterable[int] = (),
        strings: Iterable[str | bytes] = (),
        decode_bytes: DecodeBytes | None = None,
    ) -> None:
        self._tokens = frozenset(tokens)
        self._strings = [_bytes_of(string) for string in strings]
        if not all(self._strings):
            raise UserError("a stop string is empty: give at least one character")
        if self._strings and decode_bytes is None:
            raise ValueError("stop strings need decode_bytes, which turns tokens into bytes")
        self._decode_bytes = decode_bytes
        self._longest = max(map(len, self._strings), default=0)  # bytes
        self._recent: list[int] = []  # the last tokens, in which a stop string may have begun

    def find(self, tokens: Sequence[int]) -> int | None:
        """Return how many of `tokens` belong to the text, up to the one that ends it; None if none
        ends it.
        """
        if self._strings:
            return self._find_string(tokens)
        for index, token in enumerate(tokens):
            if token in self._tokens:
                return index + 1
        return None

    def extend(self, tokens: Sequence[int]) -> int | None:
        """Append `tokens` to the text. Return the result of `find` for them."""
        kept = self.find(tokens)
        if self._strings:
            self._recent += tokens
            self._forget()
        return kept

    def _find_string(self, tokens: Sequence[int]) -> int | None:
        for index, token in enumerate(tokens):
            if token in self._tokens:
                return index + 1
            text = self._decode_bytes([*self._recent, *tokens[: index + 1]])
            if any(string in text for string in self._strings):
                return index + 1
        return None

    def _forget(self) -> None:
        """Drop the oldest tokens while the others hold at least as many bytes as the longest
        string.

        Bytes are counted, not tokens, because some tokens (marks in a chat, for instance) have no
        bytes at all.
        """
        while len(self._recent) > 1:
            rest = self._recent[1:]
            if len(self._decode_bytes(rest)) < self._longest:
                break
            self._recent = rest


def _bytes_of(string: str | bytes) -> bytes:
    return string.encode("utf-8", "surrogateescape") if isinstance(string, str) else bytes(string)
