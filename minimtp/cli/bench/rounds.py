"""`minimtp bench rounds`: tokens per round, without the time."""

import argparse

from minimtp.cli.options.values import number, whole_number
from minimtp.cli.parser import (
    Commands,
    add_device,
    add_kernels,
    add_model,
    add_seed,
    add_small_run,
    use_kernels,
)


def add_parser(measurements: Commands) -> None:
    parser = measurements.add(
        "rounds",
        run,
        usage="MODEL [options]",
        summary="tokens per forward pass of every verification rule, with and without trees; "
        "times nothing",
        example="minimtp bench rounds runs/mine",
    )
    add = parser.add_argument
    add_model(parser)
    add_small_run(parser)
    add("--temperatures", nargs="+", type=number, metavar="T", help="default: 0 1")
    add("--texts", nargs="+", choices=("code", "prose", "random"), help="default: code prose")
    add(
        "--places",
        type=whole_number,
        default=1000,
        metavar="N",
        help="number of starting positions per text (default: 1000)",
    )
    add_seed(parser)
    add("--out", metavar="DIR", help="also write the results as JSON")
    add_device(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.decode import tokens_per_round

    use_kernels(options)
    tokens_per_round.measure_tokens_per_round(
        options.model,
        places=options.places,
        temperatures=options.temperatures or tokens_per_round.TEMPERATURES,
        texts=options.texts or tokens_per_round.TEXTS,
        small=options.small,
        device=options.device,
        seed=options.seed,
        out=options.out,
    )
    return 0
