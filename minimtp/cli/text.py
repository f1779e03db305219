"""Generated text in the terminal, printed while it is generated."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minimtp.training.tokenizers.tokenizer import Tokenizer

MAX_TOKENS_PER_CHARACTER = 8  # a longer run of undecodable tokens is not an unfinished character


def stream(tokens: Iterable[int], tokenizer: "Tokenizer") -> Iterator[str]:
    """Yield text as soon as its characters are complete: hold back the tokens of an unfinished
    character.
    """
    pending = []
    for token in tokens:
        pending.append(token)
        text = tokenizer.decode(pending)
        if not text.endswith("\ufffd") or len(pending) >= MAX_TOKENS_PER_CHARACTER:
            yield text
            pending = []
    yield tokenizer.decode(pending)


def printable() -> Callable[[str], str]:
    """Return the function that makes text safe to print. Control characters are escaped on a
    terminal, which would obey them, and kept in a file.
    """
    from minimtp.decode.display.terminal import visible

    return visible if sys.stdout.isatty() else str
