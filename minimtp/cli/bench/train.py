"""`minimtp bench train`: training speed."""

import argparse

from minimtp.cli.options.values import whole_number
from minimtp.cli.parser import Commands, add_kernels, add_measured_device, add_threads
from minimtp.training.presets import PRESETS
from minimtp.training.recipe import PRECISIONS


def add_parser(measurements: Commands) -> None:
    parser = measurements.add(
        "train",
        run,
        usage="[options]",
        summary="training speed, alternating with PyTorch if it is installed",
        example="minimtp bench train --threads 1",
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="quick", help="size of the model (default: quick)")
    add(
        "--steps",
        type=whole_number,
        default=20,
        metavar="N",
        help="training steps per round (default: 20)",
    )
    add(
        "--rounds",
        type=whole_number,
        default=5,
        metavar="N",
        help="rounds per implementation (default: 5)",
    )
    add_threads(parser)
    add_measured_device(parser)
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="number format of matrix products; tf32 and float16 need a GPU (default: float32)",
    )
    add("--out", metavar="FILE", help="also write the results as JSON")
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.training.speed import measure_training

    measure_training(
        options.preset,
        device=options.device,
        precision=options.precision,
        steps=options.steps,
        rounds=options.rounds,
        threads=options.threads,
        kernel_choice=options.kernels,
        out=options.out,
    )
    return 0
