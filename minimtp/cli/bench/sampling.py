"""`minimtp bench sampling`: choosing a token from a large vocabulary."""

import argparse

from minimtp.cli.options.values import whole_number
from minimtp.cli.parser import Commands, add_seed


def add_parser(measurements: Commands) -> None:
    parser = measurements.add(
        "sampling",
        run,
        usage="[options]",
        summary="time of choosing a token from a vocabulary: greedy, with noise, top-k, top-p, "
        "penalties and verification rules, next to the output layer",
        example="minimtp bench sampling --vocabulary-size 151936",
    )
    add = parser.add_argument
    add(
        "--vocabulary-size",
        type=whole_number,
        default=49_152,
        metavar="N",
        help="number of tokens (default: 49152)",
    )
    add(
        "--rounds",
        type=whole_number,
        default=21,
        metavar="N",
        help="rounds for each figure (default: 21)",
    )
    add_seed(parser)
    add("--out", metavar="FILE", help="also write the results as JSON")


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.decode.sampling import measure_sampling

    measure_sampling(
        options.vocabulary_size, rounds=options.rounds, seed=options.seed, out=options.out
    )
    return 0
