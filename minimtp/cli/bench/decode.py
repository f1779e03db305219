"""`minimtp bench decode`: the speed of every way to draft."""

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
        "decode",
        run,
        usage="MODEL [options]",
        summary="speed of every drafter with every verification rule, on code, prose and random "
        "text",
        example="minimtp bench decode runs/mine --out runs/bench",
    )
    add = parser.add_argument
    add_model(parser)
    add_small_run(parser)
    add("--temperatures", nargs="+", type=number, metavar="T", help="default: 0 0.7 1")
    add("--texts", nargs="+", choices=("code", "prose", "random"), help="default: all three")
    add(
        "--prompts",
        type=whole_number,
        default=8,
        metavar="N",
        help="number of prompts per kind of text (default: 8)",
    )
    add(
        "--prompt",
        type=whole_number,
        default=32,
        metavar="N",
        help="tokens per prompt (default: 32)",
    )
    add(
        "--max-new-tokens",
        type=whole_number,
        default=96,
        metavar="N",
        help="maximum number of new tokens per prompt (default: 96)",
    )
    add(
        "--repeats",
        type=whole_number,
        default=3,
        metavar="N",
        help="how often each prompt is measured (default: 3)",
    )
    add_seed(parser)
    add("--out", metavar="DIR", help="also write the results as JSON, and a figure")
    add_device(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.decode import speed
    from minimtp.bench.decode.prompts import Sizes

    use_kernels(options)
    sizes = Sizes(options.prompts, options.prompt, options.max_new_tokens, options.repeats)
    speed.measure_decoding(
        options.model,
        sizes=sizes,
        temperatures=options.temperatures or speed.TEMPERATURES,
        texts=options.texts or speed.TEXTS,
        small=options.small,
        device=options.device,
        seed=options.seed,
        out=options.out,
    )
    return 0
