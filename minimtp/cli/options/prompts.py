"""The prompts of `generate`: from the command line, from a file, or from standard input."""

import argparse
import sys

from minimtp.cli.parser import note_unused
from minimtp.errors import UserError
from minimtp.files import advice_to_read, kind_at
from minimtp.quoting import shown_path

MAX_PROMPT_BYTES = 10**8  # of standard input, or of all prompts in a file


def read_prompts(options: argparse.Namespace) -> list[str]:
    """Return the prompts: each --prompt, then each line of --prompts. Raises UserError if the file
    has none.
    """
    from minimtp.training.data.encoding import checked_encoding, normalized

    if options.chat is not None and (options.prompt or options.prompts):
        raise UserError("--chat and --prompt both say what comes first: use one of them")
    encoding = checked_encoding(options.encoding)
    if encoding and not (options.prompts or "-" in options.prompt):
        note_unused(options, ["--encoding"], "it is for --prompts and for standard input")
    prompts = [
        _text("standard input", sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1), encoding)
        if prompt == "-"
        else normalized(prompt)
        for prompt in options.prompt
    ]
    if options.prompts:
        name = shown_path(options.prompts)
        if kind_at(options.prompts) != "file":
            raise UserError(f"the prompts {name} cannot be read: give an existing text file")
        try:
            with open(options.prompts, "rb") as file:
                content = file.read(MAX_PROMPT_BYTES + 1)
        except OSError as error:
            remedy = advice_to_read(error)
            raise UserError(
                f"the prompts {name} cannot be read: {error.strerror}: {remedy}"
            ) from None
        lines = [line for line in _text(name, content, encoding).split("\n") if line]
        if not lines:
            raise UserError(f"{name} holds no prompts: write one per line")
        prompts += lines
    return prompts or ["import "]


def _text(name: str, content: bytes, encoding: str | None) -> str:
    """Return the text of a prompt or of several. Raises UserError if its encoding is unknown."""
    from minimtp.training.data.encoding import NotText, decode

    if len(content) > MAX_PROMPT_BYTES:
        raise UserError(f"{name} has more than {MAX_PROMPT_BYTES:,} bytes: give shorter prompts")
    try:
        return decode(content, encoding)[0]
    except NotText as error:
        raise UserError(error.sentence(name)) from None
