"""`minimtp bench heads`: the acceptance of heads over their training."""

import argparse

from minimtp.cli.parser import Commands


def add_parser(measurements: Commands) -> None:
    parser = measurements.add(
        "heads",
        run,
        usage="RUN [RUN ...] [--out FILE]",
        summary="how the acceptance of draft heads grew in training, from the logs of runs",
        example="minimtp bench heads runs/eagle3 runs/token-conditioned",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a run folder of minimtp train, with heads")
    add("--out", metavar="FILE", help="also write the results as JSON")


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.training.heads import measure_heads

    measure_heads(options.runs, out=options.out)
    return 0
