"""Show in a terminal which tokens were drafted and accepted, which were rejected, and what
replaced them.

Everything comes from the rounds of a generation, so the output shows what really happened. On a
terminal the kinds of tokens have colours. Without colours (a file, a pipe, or the variable
NO_COLOR, see no-color.org) they have marks, as in `git diff --word-diff`:

    accepted   drafted, and the model agreed               green    {=text=}
    rejected   drafted, but not part of the text           red      [-text-]
    corrected  the model's own token, after a rejection    yellow   {+text+}
    plain      the model's own token, with no draft rejected in its place

A model can emit any bytes, so they are made safe. UTF-8 is decoded as soon as a character is
complete, and invalid bytes become U+FFFD. Control characters, which could move the cursor or change
the terminal's settings, are written as escapes.
"""

import codecs
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TextIO

from minimtp.decode.generation import Generation
from minimtp.decode.round import Round
from minimtp.decode.statistics import Statistics
from minimtp.decode.stopping import DecodeBytes

COLOURS = {"accepted": "32", "rejected": "9;31", "corrected": "33", "prompt": "2"}
MARKS = {"accepted": ("{=", "=}"), "rejected": ("[-", "-]"), "corrected": ("{+", "+}")}


class BytesDecoder(Protocol):
    """The part of a tokenizer that is needed here."""

    decode_bytes: DecodeBytes


class Watched(Protocol):
    """A generation, or a `Trace` of one."""

    tokens: list[int]
    statistics: Statistics
    rounds: Callable[[], Iterator[Round]]


def show(
    generation: Generation | Watched,
    tokenizer: BytesDecoder,
    out: TextIO | None = None,
    colour: bool | None = None,
) -> None:
    """Run the generation to its end. Write the prompt, the text as it grows, a legend and the
    acceptance rates.

    out: standard output by default. colour: by default, use colours if `out` is a terminal that
    shows them.
    """
    out = out or sys.stdout
    colour = wants_colour(out) if colour is None else colour
    prompt = generation.tokens[: generation.statistics.prompt_tokens]
    for kind, text in pieces(prompt, generation.rounds(), tokenizer.decode_bytes):
        out.write(encodable(styled(kind, text, colour), out))
        out.flush()
    kinds = " ".join(styled(kind, kind, colour) for kind in ("accepted", "rejected", "corrected"))
    out.write(f"\n\n{kinds}\n{acceptance(generation.statistics)}\n")
    out.flush()


def pieces(
    prompt: Sequence[int], rounds: Iterable[Round], decode_bytes: DecodeBytes
) -> Iterator[tuple[str, str]]:
    """Yield the text in pieces (kind, safe text), none of them empty.

    A character whose bytes are spread over several pieces belongs to the piece that completes it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    if text := visible(decoder.decode(decode_bytes(prompt))):
        yield "prompt", text
    for round_ in rounds:
        rejected = round_.drafts[round_.accepted :]
        if text := visible(decoder.decode(decode_bytes(round_.tokens[: round_.accepted]))):
            yield "accepted", text
        # Rejected drafts are not part of the text, so they do not go through its decoder.
        rejected_text = visible(decode_bytes(rejected).decode("utf-8", "replace"), keep="")
        if rejected_text:
            yield "rejected", rejected_text
        if text := visible(decoder.decode(decode_bytes(round_.tokens[round_.accepted :]))):
            yield "corrected" if rejected else "plain", text
    if text := visible(decoder.decode(b"", final=True)):
        yield "plain", text


def styled(kind: str, text: str, colour: bool) -> str:
    """Return the text with the colour or the marks of its kind around it."""
    if colour:
        return f"\x1b[{COLOURS[kind]}m{text}\x1b[0m" if kind in COLOURS else text
    before, after = MARKS.get(kind, ("", ""))
    return before + text + after


def visible(text: str, keep: str = "\n\t") -> str:
    """Return the text with all characters that are not printable, except those in `keep`, as
    escapes like \\x1b.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in keep
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def encodable(text: str, out: TextIO) -> str:
    """Replace characters that `out` cannot encode by question marks."""
    encoding = getattr(out, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def wants_colour(out: TextIO) -> bool:
    """Return whether `out` is a terminal that shows colours, and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    understands = sys.platform != "win32" or "WT_SESSION" in os.environ
    return understands and out.isatty()


def acceptance(statistics: Statistics) -> str:
    """Describe in one line which share of the drafts was accepted at each drafted depth."""
    depths = zip(statistics.accepted, statistics.drafted, strict=True)
    shares = [f"{100 * accepted / drafted:.0f}%" for accepted, drafted in depths if drafted]
    if not shares:
        return "nothing was drafted"
    per_step = f"{statistics.tokens_per_step:.2f} tokens per step"
    return f"accepted by depth: {', '.join(shares)}; {per_step}"
