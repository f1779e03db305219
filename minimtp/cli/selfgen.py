"""`minimtp selfgen`: let a model generate the text that its draft heads are trained on."""

import argparse
import sys
from typing import TYPE_CHECKING

from minimtp.cli.options.values import whole_number
from minimtp.cli.parser import (
    Commands,
    add_device,
    add_encoding,
    add_kernels,
    add_model,
    add_seed,
    add_threads,
    note_unused,
    note_unused_threads,
    use_kernels,
)
from minimtp.errors import UserError

if TYPE_CHECKING:
    from minimtp.training.run.folder import LoadedRun

FASTEST = "q8_0"  # in which a float model writes as before, only faster
TOKENS = 500_000


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "selfgen",
        run,
        usage="MODEL --out DIR [options]",
        summary="let a model generate text, to train its prediction heads on",
        example="minimtp selfgen smollm2 --tokens 500k --out runs/own-text\n"
        "  minimtp train --from smollm2 --corpus runs/own-text --heads token_conditioned "
        "--freeze-trunk",
    )
    add = parser.add_argument
    add_model(parser)
    add(
        "--out",
        required=True,
        metavar="DIR",
        help="folder to write, and to go on in: the same command continues what was interrupted, "
        "and more --tokens add to it. Give the folder to `minimtp train --corpus`",
    )
    add(
        "--tokens",
        type=whole_number,
        default=TOKENS,
        metavar="N",
        help=f"number of new tokens to keep, at least (default: {TOKENS:,})",
    )
    add(
        "--mix",
        metavar="KIND=SHARE,...",
        help="kinds of text and their shares: chat (conversations), code, edit (functions to "
        "change), prose, text (continuations of --corpus) (default: "
        "chat=44,code=25,edit=19,prose=12; without chat if the model has no chat template; "
        "text=100 with --corpus)",
    )
    add(
        "--corpus",
        nargs="+",
        default=[],
        metavar="PATH",
        help="your own text, which texts of the kind text continue: files and folders, or one of "
        "stdlib, pydoc, shakespeare, bible",
    )
    add_encoding(parser)
    add(
        "--grid",
        metavar="NAME",
        help=f"number format of the weights while the model writes (default: {FASTEST} for a "
        "float model, which is faster; a quantized model stays as it is)",
    )
    add_seed(parser)
    add_device(parser)
    add_threads(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.machine import available_cores
    from minimtp.quoting import command
    from minimtp.training.data.corpus import open_corpus
    from minimtp.training.self_generated.generate import write_self_generated
    from minimtp.training.self_generated.mixture import default_mixture, parse_mixture
    from minimtp.training.self_generated.report import speed, table
    from minimtp.training.self_generated.requests import Requests

    if options.tokens < 1:
        raise UserError(f"--tokens must be at least 1, not {options.tokens}")
    mixture = parse_mixture(options.mix) if options.mix else None
    use_kernels(options)
    note_unused_threads(options)
    loaded = minimtp.load(options.model, options.device, dequantize=bool(options.grid))
    if mixture is None:
        mixture = default_mixture(loaded.tokenizer.chat_template, bool(options.corpus))
    if "text" not in mixture:
        note_unused(options, ["--corpus"], "--mix has no share for text")
    if "text" not in mixture or not options.corpus:
        note_unused(options, ["--encoding"], "it is for the files of --corpus")
    own_text = None
    if "text" in mixture and options.corpus:
        own_text = open_corpus(options.corpus, loaded.tokenizer, options.encoding, out=options.out)
    requests = Requests(
        loaded.tokenizer, loaded.config.context_length, options.seed, own_text=own_text
    )
    writer, grid = _writer(loaded, options)
    del loaded  # the float weights, if the writer has others
    threads = available_cores() if options.threads is None else options.threads
    shares = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in mixture.items())

    def begin() -> None:
        print(f"writer    {options.model}, weights {grid}", file=sys.stderr)
        print(
            f"text      {options.tokens:,} tokens: {shares}, seed {options.seed}", file=sys.stderr
        )

    done = write_self_generated(
        writer,
        requests,
        mixture,
        options.out,
        options.tokens,
        grid=grid,
        threads=threads,
        begin=begin,
    )
    for line in table(done.texts):
        print(line)
    print(speed(done, threads, grid))
    train = command("minimtp", "train", "--from", options.model, "--corpus", options.out)
    print(f"train on it: {train} ...")
    return 0


def _writer(loaded: "LoadedRun", options: argparse.Namespace) -> tuple["LoadedRun", str]:
    """Return the model that writes, and the number format of its weights in words."""
    from minimtp.training.self_generated.generate import packed_copy

    quantized = loaded.packed is not None or loaded.fake_quantized
    if options.grid:
        if quantized:
            raise UserError(
                f"{options.model} is quantized already: leave out --grid, or give the model that "
                "it was made from"
            )
        return packed_copy(loaded, options.grid), f"in {options.grid}"
    if quantized:
        return loaded, "as they are"
    try:
        return packed_copy(loaded, FASTEST), f"in {FASTEST}"
    except UserError as obstacle:  # a matrix whose rows are not whole groups
        print(f"minimtp: the model writes in float32: {obstacle}", file=sys.stderr)
        return loaded, "in float32"
