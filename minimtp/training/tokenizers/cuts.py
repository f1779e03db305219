"""Where a long text can be cut so that its tokens stay the same.

The library needs some hundred bytes of memory for each character that it gets at once. A vocabulary
joins characters to tokens only inside *words*, which its own patterns find, so a text can be cut
where a word ends whatever follows. A kind of place is used only if no token of the vocabulary
crosses it, and if examples have the same tokens with and without the cut.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Place:
    """A kind of place. pattern: ends where the text is cut. crossing: occurs in a token that goes
    on behind it, in UTF-8. before, after: examples of the text on both sides.
    """

    pattern: str
    crossing: bytes
    before: tuple[str, ...]
    after: tuple[str, ...]


WORDS = ("the cat", "A", "\u0434\u0435\u043d\u044c")
OTHERS = ("it's", "7", "1,25", "{", "};", '"', "_", "\u4e2d\u6587", "\u0928\u0940")
LINE = tuple(text + "\n" for text in (*WORDS, *OTHERS))
PLACES = (
    Place(r"\S\n(?=\S)", rb"\n\S", LINE, (*WORDS, *OTHERS, "'s", "# x", "-1", ".")),
    Place(r"[A-Za-z]\n(?=[A-Za-z])", rb"\n[A-Za-z]", ("the cat\n", "A\n", "it's\n"), ("And", "a")),
    # A space between two words belongs to the second.
    Place(
        r"[^\W\d_](?= [^\W\d_])",
        rb"[A-Za-z\x80-\xff] ",
        (*WORDS, "it's"),
        tuple(" " + text for text in WORDS),
    ),
)


def places_to_cut(
    encode: Callable[[str], list[int]], tokens: Iterable[bytes]
) -> re.Pattern[str] | None:
    """Return a pattern whose matches end where a text can be cut, or None if nothing is known.

    encode: returns the tokens of a text. tokens: the bytes of every token.
    """
    known = list(tokens)
    found = [
        place.pattern
        for place in PLACES
        if not any(re.search(place.crossing, token) for token in known)
        and all(
            encode(before + after) == encode(before) + encode(after)
            for before, after in product(place.before, place.after)
        )
    ]
    return re.compile("|".join(found)) if found else None
