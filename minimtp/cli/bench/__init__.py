"""`minimtp bench`: one measurement, or all of them with --all."""

import argparse

from minimtp.cli.bench import (
    acceptance,
    decode,
    heads,
    kernels,
    llama,
    passes,
    quality,
    rounds,
    sampling,
    train,
)
from minimtp.cli.parser import Commands, add_commands
from minimtp.errors import UserError

MEASUREMENTS = (train, quality, kernels, decode, rounds, acceptance, heads, passes, sampling, llama)
OPTIONS_OF_ALL = {
    "all": "--all",
    "all_preset": "--preset",
    "all_device": "--device",
    "all_out": "--out",
}


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "bench",
        run,
        usage="MEASUREMENT [options] | --all [options]",
        summary="measure speed and quality, next to PyTorch and llama.cpp if they are installed",
        example="minimtp bench train",
    )
    # No defaults, so that `check` can tell which options were given: the measurements have options
    # of the same names.
    parser.set_defaults(check=check)
    add = parser.add_argument
    add(
        "--all",
        action="store_true",
        default=argparse.SUPPRESS,
        help="run compare and every measurement except rounds, acceptance, heads, passes, "
        "sampling and llama",
    )
    add(
        "--preset",
        dest="all_preset",
        metavar="quick|tiny|gpu",
        default=argparse.SUPPRESS,
        help="with --all: size of the models (default: quick)",
    )
    add(
        "--device",
        dest="all_device",
        choices=("cpu", "cuda"),
        default=argparse.SUPPRESS,
        help="with --all: device to measure (default: cpu)",
    )
    add(
        "--out",
        dest="all_out",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="with --all: folder to write, and to resume in (default: runs/bench-PRESET)",
    )
    measurements = add_commands(parser, "measurements", "MEASUREMENT")
    for measurement in MEASUREMENTS:
        measurement.add_parser(measurements)


def check(options: argparse.Namespace) -> None:
    """Raise UserError if a measurement is named together with the options of --all."""
    given = [option for name, option in OPTIONS_OF_ALL.items() if name in options]
    if options.command is run or not given:
        return
    correction = "omit the name" if "all" in options else f"write {given[0]} after the name"
    raise UserError(
        f"bench takes --all with its options or the name of a measurement, not both: {correction}"
    )


def run(options: argparse.Namespace) -> int:
    if "all" not in options:
        raise UserError("name a measurement, or use --all: see minimtp bench -h")
    from minimtp.cli.bench.everything import measure_everything

    destinations = {"preset": "all_preset", "out": "all_out", "device": "all_device"}
    given = {name: vars(options)[key] for name, key in destinations.items() if key in options}
    measure_everything(**given)
    return 0
