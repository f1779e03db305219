"""`minimtp chat`: talk with a chat model in the terminal."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from minimtp.cli.options.generation import (
    add_draft_options,
    add_sampling_options,
    chosen_drafting,
    decoding_settings,
    note_one_thread,
    note_unused_choices,
)
from minimtp.cli.parser import (
    Commands,
    add_context,
    add_device,
    add_kernels,
    add_kv_cache,
    add_model,
    add_threads,
    note_unused_threads,
    use_kernels,
)
from minimtp.cli.text import printable, stream
from minimtp.errors import UserError

if TYPE_CHECKING:
    from minimtp.decode.decoder import Decoder

MARK = "> "  # before each message of the user on a terminal
NEW, QUIT = "/new", "/quit"


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "chat",
        run,
        usage="MODEL [options]",
        summary="talk with a chat model",
        example="minimtp chat smollm2 --temperature 0.7",
    )
    add_model(parser)
    parser.add_argument(
        "--system", metavar="TEXT", help="instruction before the conversation, in its system role"
    )
    add_sampling_options(parser)
    add_draft_options(parser)
    add_context(
        parser, "maximum length of the conversation in tokens (default: the model's context)"
    )
    add_device(parser)
    add_threads(parser, "as many as are fastest, which is measured")
    add_kv_cache(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.decode.decoder import Decoder
    from minimtp.model.chat import require_template
    from minimtp.records import notice

    use_kernels(options)
    note_unused_threads(options)
    loaded = minimtp.load(options.model, device=options.device)
    require_template(loaded.tokenizer)
    drafting = chosen_drafting(options, loaded)
    decoder = Decoder(loaded, drafting, options.context, options.threads, options.kv_cache)
    note_one_thread(options, decoder)
    note_unused_choices(options, decoder)
    beginning = [{"role": "system", "content": options.system}] if options.system else []
    messages = list(beginning)
    if sys.stdin.isatty():
        print(
            f"{NEW} begins a new conversation, {QUIT} or Ctrl-D ends the program", file=sys.stderr
        )
    for line in _lines():
        if line == QUIT:
            break
        if line == NEW:
            messages = list(beginning)
        elif line:
            messages.append({"role": "user", "content": line})
            try:
                answer = _answer(decoder, messages, options)
            except UserError as error:
                if not sys.stdin.isatty():
                    raise
                notice(f"{error} ({NEW} begins a new conversation)")
                messages.pop()
            else:
                messages.append({"role": "assistant", "content": answer})
    return 0


def _lines() -> Iterator[str]:
    """Yield the user's lines, from a terminal or from a pipe, until the input ends."""
    if not sys.stdin.isatty():
        yield from _piped_lines(sys.stdin.buffer)
        return
    while True:
        try:
            yield input(MARK).strip()
        except EOFError:
            print(file=sys.stderr)
            return


def _piped_lines(pipe: BinaryIO) -> Iterator[str]:
    """Yield the lines of a pipe as they come. UTF-16 and UTF-32 are read to the end first.

    Raises UserError for a line that is not text.
    """
    from minimtp.training.data.encoding import NotText, decode, is_wide

    for number, line in enumerate(pipe, start=1):
        if number == 1 and is_wide(line):
            line += pipe.read()
        try:
            text, _ = decode(line)
        except NotText as error:
            raise UserError(
                f"line {number} of the standard input is {error.kind}: give it in UTF-8"
            ) from None
        yield from (part.strip() for part in text.removesuffix("\n").split("\n"))


def _answer(decoder: "Decoder", messages: list[dict[str, str]], options: argparse.Namespace) -> str:
    """Print the model's answer while it is generated, and return it."""
    from minimtp.model.chat import chat_tokens

    tokenizer = decoder.loaded.tokenizer
    generation = decoder.generate(
        chat_tokens(tokenizer, [messages])[0], **decoding_settings(options)
    )
    shown, parts = printable(), []
    for text in stream(generation, tokenizer):
        parts.append(text)
        print(shown(text), end="", flush=True)
    print(flush=True)
    counts = generation.statistics
    print(
        f"({counts.emitted} tokens, {counts.tokens_per_second:,.0f} tokens/s, "
        f"{counts.tokens_per_step:.2f} per step)",
        file=sys.stderr,
    )
    if generation.reason == "context":
        raise UserError(
            "the conversation has filled the context: begin a new one, or raise --context"
        )
    return "".join(parts)
