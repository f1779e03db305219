"""`minimtp bench kernels`: the speed of matrix products."""

import argparse

from minimtp.cli.options.values import whole_number
from minimtp.cli.parser import Commands, add_measured_device


def add_parser(measurements: Commands) -> None:
    parser = measurements.add(
        "kernels",
        run,
        usage="[options]",
        summary="speed of matrix products with 1 to 16 rows, next to NumPy and the speed of the "
        "memory, and of the products of training in float32 and bfloat16",
        example="minimtp bench kernels --max-size 64",
    )
    add = parser.add_argument
    add(
        "--max-size",
        type=whole_number,
        default=512,
        metavar="MB",
        help="size of the largest matrix in float32 (default: 512, larger than most caches even "
        "as int4)",
    )
    add(
        "--rounds",
        type=whole_number,
        default=5,
        metavar="N",
        help="rounds per matrix product (default: 5)",
    )
    add_measured_device(parser)
    add("--out", metavar="FILE", help="also write the results as JSON, with a figure next to it")


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.kernels.speed import measure_kernels

    measure_kernels(
        max_size=options.max_size, rounds=options.rounds, device=options.device, out=options.out
    )
    return 0
