"""Watching a text being written: which tokens were drafted and stood, which were rejected, and what came in their place.

Everything comes from the rounds of a generation, so what is shown is what happened. On a terminal the kinds of tokens are
colours; where there are none (a file, a pipe, the variable NO_COLOR, see no-color.org) they are marks, in the manner of
`git diff --word-diff`:

    accepted   drafted, and the model agreed       green    {=text=}
    rejected   drafted, not part of the text       red      [-text-]
    corrected  the model's token instead           yellow   {+text+}
    plain      the model's token, nothing drafted in its place

Bytes are a model's to choose, so they are made safe: UTF-8 is decoded as it becomes complete, what is invalid becomes
U+FFFD, and control characters, which could otherwise move the cursor or set the terminal, are written out as escapes.
"""

import codecs
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO

from minimtp.decode.generation import Generation
from minimtp.decode.round import Round
from minimtp.decode.statistics import Statistics

COLOURS = {"accepted": "32", "rejected": "9;31", "corrected": "33", "prompt": "2"}
MARKS = {"accepted": ("{=", "=}"), "rejected": ("[-", "-]"), "corrected": ("{+", "+}")}


def show(
    generation: Generation, tokenizer: object, out: TextIO | None = None, colour: bool | None = None
) -> None:
    """Write the prompt, then the text as it is generated, then what the kinds mean and how often drafts were accepted.

    tokenizer: has decode_bytes(tokens) -> bytes. out: where to, standard output by default. colour: whether to use
    colours, by default where `out` is a terminal that wants them. Takes the generation to its end.
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
    prompt: Sequence[int], rounds: Iterable[Round], decode_bytes: Callable[[Sequence[int]], bytes]
) -> Iterator[tuple[str, str]]:
    """The text in pieces (kind, safe text), one after another, none empty.

    A character whose bytes are spread over pieces belongs to the piece that completes it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    if text := visible(decoder.decode(decode_bytes(prompt))):
        yield "prompt", text
    for round_ in rounds:
        rejected = round_.drafts[round_.accepted :]
        if text := visible(decoder.decode(decode_bytes(round_.tokens[: round_.accepted]))):
            yield "accepted", text
        if rejected and (
            text := visible(decode_bytes(rejected).decode("utf-8", "replace"), keep="")
        ):
            yield "rejected", text
        if text := visible(decoder.decode(decode_bytes(round_.tokens[round_.accepted :]))):
            yield "corrected" if rejected else "plain", text
    if text := visible(decoder.decode(b"", final=True)):
        yield "plain", text


def styled(kind: str, text: str, colour: bool) -> str:
    """The text with the colour or the marks of its kind around it."""
    if colour:
        return f"\x1b[{COLOURS[kind]}m{text}\x1b[0m" if kind in COLOURS else text
    before, after = MARKS.get(kind, ("", ""))
    return before + text + after


def visible(text: str, keep: str = "\n\t") -> str:
    """The text with every character that is not printable, but for those in `keep`, written as an escape like \\x1b."""
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in keep
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def encodable(text: str, out: TextIO) -> str:
    """The text with what `out` cannot encode replaced by question marks: a narrow terminal is no reason to stop."""
    encoding = getattr(out, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def wants_colour(out: TextIO) -> bool:
    """Whether colours would be seen: a terminal that understands them, and nobody said no."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    understands = sys.platform != "win32" or "WT_SESSION" in os.environ
    return understands and out.isatty()


def acceptance(statistics: Statistics) -> str:
    """One line: the share of drafted tokens that were accepted, by depth; a depth that was never drafted is left out."""
    depths = zip(statistics.accepted, statistics.drafted, strict=True)
    shares = [f"{100 * accepted / drafted:.0f} %" for accepted, drafted in depths if drafted]
    if not shares:
        return "nothing was drafted"
    return f"accepted by depth: {', '.join(shares)}; {statistics.tokens_per_step:.2f} tokens a step"
