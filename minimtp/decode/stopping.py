"""Where a text ends because of what it says: at a stop token, or where a stop string is complete.

A stop string may begin in one token and end in another, or lie in the middle of one. The text ends with the first token at
which its new part contains the string; that token is kept whole, as a stop token is. The prompt's own text does not count.

The same question is asked of drafts, which nobody has committed to yet, and of tokens that were emitted. So looking (`find`)
and remembering (`extend`) are two methods.
"""

from collections.abc import Callable, Iterable, Sequence

from minimtp.errors import UserError


class Stop:
    """The ends of one text: `tokens`, any of which ends it, and `strings`, found with `decode_bytes(tokens) -> bytes`.

    Raises UserError for an empty string, and ValueError for strings without decode_bytes.
    """

    def __init__(
        self,
        tokens: Iterable[int] = (),
        strings: Iterable[str | bytes] = (),
        decode_bytes: Callable[[Sequence[int]], bytes] | None = None,
    ) -> None:
        self._tokens = frozenset(tokens)
        self._strings = [
            s.encode("utf-8", "surrogateescape") if isinstance(s, str) else bytes(s)
            for s in strings
        ]
        if not all(self._strings):
            raise UserError(
                "a stop string is empty, and would end every text at once: give at least one character"
            )
        if self._strings and decode_bytes is None:
            raise ValueError("stop strings need decode_bytes, to know what tokens say")
        self._decode_bytes = decode_bytes
        # A token has at least one byte, but for the few that have none and end documents: so many tokens hold all that a
        # string can have begun in.
        self._memory = max(map(len, self._strings), default=0)
        self._recent: list[int] = []

    def find(self, tokens: Sequence[int]) -> int | None:
        """How many of these tokens the text would keep, were they emitted next: up to the one that ends it. None: all."""
        if self._strings:
            return self._find_string(tokens)
        for index, token in enumerate(tokens):
            if token in self._tokens:
                return index + 1
        return None

    def extend(self, tokens: Sequence[int]) -> bool:
        """These tokens were emitted; whether they end the text."""
        ended = self.find(tokens) is not None
        if self._strings:
            self._recent = [*self._recent, *tokens][-self._memory :]
        return ended

    def _find_string(self, tokens: Sequence[int]) -> int | None:
        for index, token in enumerate(tokens):
            if token in self._tokens:
                return index + 1
            text = self._decode_bytes([*self._recent, *tokens[: index + 1]])
            if any(string in text for string in self._strings):
                return index + 1
        return None
