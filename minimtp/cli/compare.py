"""`minimtp compare`: train, decode and compare the configurations."""

import argparse

from minimtp.cli.parser import (
    Commands,
    add_corpus,
    add_device,
    add_kernels,
    add_seed,
    add_threads,
    note_unused,
    note_unused_threads,
    use_kernels,
)
from minimtp.training.presets import PRESETS


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "compare",
        run,
        usage="[options]",
        summary="train a plain model, one with prediction heads and one that is also int4, and "
        "compare them",
        example="minimtp compare --preset quick",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="size of the model: tiny takes seconds, quick minutes (the default), laptop half an "
        "hour, gpu needs a GPU",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder to write, and to resume in (default: runs/compare-PRESET)",
    )
    add_seed(parser)
    add_corpus(parser)
    add_device(parser)
    add_threads(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    from minimtp.compare.run import compare

    use_kernels(options)
    note_unused_threads(options)
    if not options.corpus:
        note_unused(options, ["--encoding"], "it is for the files of --corpus")
    compare(
        options.preset,
        options.out,
        corpus=options.corpus,
        device=options.device,
        threads=options.threads,
        seed=options.seed,
        encoding=options.encoding,
    )
    return 0
