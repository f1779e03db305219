"""`minimtp bench quality`: the quality lost to quantization."""

import argparse

from minimtp.cli.options.values import whole_number, whole_numbers
from minimtp.cli.parser import (
    Commands,
    add_corpus,
    add_kernels,
    add_threads,
    note_unused,
    use_kernels,
)


def add_parser(measurements: Commands) -> None:
    parser = measurements.add(
        "quality",
        run,
        usage="[options]",
        summary="quality lost to quantization, and how much each method recovers",
        example="minimtp bench quality --bits 4,2 --seeds 1",
    )
    add = parser.add_argument
    add(
        "--preset",
        default="quick",
        metavar="quick|tiny",
        help="size of the models (default: quick)",
    )
    add(
        "--bits",
        type=whole_numbers,
        default=(8, 4, 3, 2),
        metavar="N,N",
        help="bits per weight, out of 8, 4, 3 and 2 (default: 8,4,3,2)",
    )
    add(
        "--seeds",
        type=whole_number,
        default=3,
        metavar="N",
        help="models to train per method (default: 3)",
    )
    add_threads(parser)
    add(
        "--out",
        metavar="DIR",
        help="folder to write, and to resume in (default: runs/quality-PRESET)",
    )
    add_corpus(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.quality.measure import measure_quality

    use_kernels(options)
    if not options.corpus:
        note_unused(options, ["--encoding"], "it is for the files of --corpus")
    measure_quality(
        options.bits,
        options.seeds,
        options.preset,
        options.out,
        corpus=options.corpus,
        threads=options.threads,
        encoding=options.encoding,
    )
    return 0
