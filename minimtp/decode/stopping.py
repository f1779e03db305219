"""Stop conditions: a text ends at a stop token, or when a stop string is complete.

A stop string may begin in one token and end in another, or lie in the middle of one. The text ends
with the first token that completes the string. That token is kept whole, and so is a stop token.
The prompt does not count.

Special tokens, such as the marks of a chat, have a name but no bytes of text. A stop string is
searched in the text as the reader sees it, without them, and in the text with their names. So a
stop string can be such a name, and special tokens between its letters do not hide a string.

The same question is asked about drafts, which are not committed yet, and about committed tokens. So
`find` does not change the state, and `extend` does.
"""

from collections.abc import Callable, Iterable, Sequence

from minimtp.errors import UserError, utf8

DecodeBytes = Callable[[Sequence[int]], bytes]


class Stop:
    """The stop conditions of one text: any of `tokens`, or any of `strings`.

    decode_bytes, spell: turn tokens into bytes, without and with the names of special tokens. The
    bytes of several tokens must be those of one after another.

    Raises UserError if a string is empty or not text, and ValueError if there are strings but no
    decode_bytes.
    """

    def __init__(
        self,
        tokens: Iterable[int] = (),
        strings: Iterable[str | bytes] = (),
        decode_bytes: DecodeBytes | None = None,
        spell: DecodeBytes | None = None,
    ) -> None:
        self._tokens = frozenset(tokens)
        self._strings = [utf8(string, "a stop string") for string in strings]
        if not all(self._strings):
            raise UserError("a stop string is empty: give at least one character")
        if self._strings and decode_bytes is None:
            raise ValueError("stop strings need decode_bytes, which turns tokens into bytes")
        self._views = [view for view in (decode_bytes, spell) if view is not None]
        # The most bytes of a stop string that are there while it is not yet complete.
        self._begun = max(map(len, self._strings), default=1) - 1
        self._tails = [b""] * len(self._views)  # the last bytes of the text, in each view

    def find(self, tokens: Sequence[int]) -> int | None:
        """Return how many of `tokens` belong to the text, up to the one that ends it; None if none
        ends it.
        """
        return self._read(tokens)[0]

    def extend(self, tokens: Sequence[int]) -> int | None:
        """Append `tokens` to the text. Return the result of `find` for them."""
        kept, self._tails = self._read(tokens)
        return kept

    def _read(self, tokens: Sequence[int]) -> tuple[int | None, list[bytes]]:
        """Return the result of `find`, and the last bytes of the text after these tokens."""
        tails = self._tails
        for index, token in enumerate(tokens):
            if token in self._tokens:
                return index + 1, tails
            if self._strings:
                new = [view([token]) for view in self._views]
                texts = [tail + part for tail, part in zip(tails, new, strict=True)]
                if any(string in text for text in texts for string in self._strings):
                    return index + 1, tails
                tails = [text[max(0, len(text) - self._begun) :] for text in texts]
        return None, tails
