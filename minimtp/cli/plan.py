"""`minimtp plan`: is it worth it, on which hardware, and for how many requests?"""

import argparse
from dataclasses import fields

from minimtp.cli.options.values import number, whole_number
from minimtp.cli.parser import Commands, add_seed, given, note_unused
from minimtp.errors import UserError, shown

ALONE = ("--claims", "--published", "--validate")  # what they print needs no other option
OPTIONS = (  # the options of `Settings` that are one number: (name, reader, help)
    ("requests-per-hour", number, "the load (default: full devices)"),
    ("prompt-tokens", whole_number, "mean length of a prompt (default: 800)"),
    ("new-tokens", whole_number, "mean length of an answer (default: 300)"),
    ("length-spread", number, "standard deviation of the lengths over their mean (default: 0.5)"),
    ("min-tokens-per-second", number, "no request may be slower than this (default: 20)"),
    ("max-drafts", whole_number, "longest draft (default: 7)"),
    ("bits", number, "bits per weight of the int4 configurations (default: 4.5)"),
    ("table-bits", number, "bits of their token table and output matrix (default: 8.5)"),
    ("cache-bits", number, "bits of a number in the cache (default: 16)"),
    ("draft-layers", whole_number, "layers of the prediction head (default: 1)"),
    ("draft-vocabulary", whole_number, "tokens that the head can draft (default: all)"),
    (
        "max-devices",
        whole_number,
        "most devices of one replica (default: as many as can be linked, up to 8)",
    ),
    ("parallel-efficiency", number, "of several devices on one pass (default: 0.8)"),
    ("memory-share", number, "of a device for weights and cache (default: 0.9)"),
    ("utilisation", number, "planned load of a replica, from 0 to 1 (default: 0.8)"),
    ("prompt-rows", whole_number, "rows of prompts that join a pass (default: 2048)"),
)
HARDWARE_OPTIONS = (  # replace a key of the hardware
    ("bandwidth-efficiency", "share of the bandwidth that a pass reaches"),
    ("compute-efficiency", "share of the peak that a pass reaches"),
    ("layer-microseconds", "launching the kernels of one layer"),
    ("round-milliseconds", "what a drafting round adds on the host"),
    ("request-microseconds", "the same, for each request"),
    ("dollars-per-hour", "price of one device"),
)


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "plan",
        run,
        usage="[RUN] [options]",
        summary="say whether MTP and int4 are worth it: memory, speed, devices and cost",
        example="minimtp plan --model 70b --hardware h100 --requests-per-hour 5000",
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="?",
        help="a run folder, which is measured here, or the folder or file of a comparison "
        "(compare.json), instead of --model and --hardware",
    )  # fmt: skip
    parser.add_argument(
        "--model",
        help="1b, 8b, 13b, 70b, llama2-7b, llama2-70b or a config.json or its folder (default: 8b)",
    )
    parser.add_argument(
        "--hardware",
        help="laptop, rtx4090, a100, h100, h200, zen4-core, zen5-core, emerald-rapids-core or a "
        ".json file (default: h100)",
    )
    parser.add_argument("--batch", metavar="N[-M]", help="requests at a time (default: 1-256)")
    parser.add_argument(
        "--acceptance", metavar="A[,A...]", help="acceptance by depth of a draft (default: 0.8)"
    )
    parser.add_argument(
        "--arrivals", metavar="FILE",
        help="requests to simulate on one replica, one per line: seconds, prompt and new tokens",
    )  # fmt: skip
    for name, read, text in OPTIONS:
        parser.add_argument(f"--{name}", type=read, metavar="N", help=text)
    for name, text in HARDWARE_OPTIONS:
        parser.add_argument(f"--{name}", type=number, metavar="N", help=f"{text}")
    add_seed(parser)
    parser.add_argument("--out", metavar="DIR", help="save plan.json and plan.png")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--claims", action="store_true", help="judge public claims, and stop")
    parser.add_argument(
        "--published", action="store_true", help="compare with published numbers, and stop"
    )
    parser.add_argument(
        "--validate", metavar="FILE", nargs="+",
        help="compare with the tokens/s measured in these files of compare and bench decode, and "
        "stop",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from minimtp.plan import command

    alone = [name for name in ALONE if given(options, [name])]
    if alone:
        others = {"--json", *alone[:1]}
        names = [name for name in options.parser.option_names if name not in others]
        note_unused(options, names, f"{alone[0]} plans nothing")
        if options.run is not None:
            raise UserError(f"{alone[0]} needs no run: leave out {shown(options.run)}")
    if options.claims:
        command.claims(options.json, print)
    elif options.published:
        command.published(options.json, print)
    elif options.validate:
        command.validate(options.validate, options.json, print)
    else:
        command.plan(
            options.run,
            options.model,
            options.hardware,
            _settings(options),
            _hardware(options),
            out=options.out,
            as_json=options.json,
            report=print,
        )
    return 0


def _settings(options: argparse.Namespace) -> dict[str, object]:
    """Return the fields of `Settings` that the command line gives."""
    from minimtp.plan.arrivals import read_arrivals
    from minimtp.plan.settings import Settings

    given = {f.name: getattr(options, f.name, None) for f in fields(Settings)}
    if options.batch is not None:
        given["min_batch"], given["max_batch"] = _batch(options.batch)
    if options.acceptance is not None:
        given["acceptance"] = _acceptance(options.acceptance)
    if options.arrivals is not None:
        given["arrivals"] = read_arrivals(options.arrivals)
    return {name: value for name, value in given.items() if value is not None}


def _hardware(options: argparse.Namespace) -> dict[str, float]:
    names = [name.replace("-", "_") for name, _ in HARDWARE_OPTIONS]
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _batch(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    try:
        return whole_number(low), whole_number(high if dash else low)
    except argparse.ArgumentTypeError:
        raise UserError(
            f"--batch must be a number or a range like 1-256, not {shown(text)}"
        ) from None


def _acceptance(text: str) -> tuple[float, ...]:
    try:
        return tuple(number(part) for part in text.split(","))
    except argparse.ArgumentTypeError:
        raise UserError(
            f"--acceptance must be numbers from 0 to 1, one per depth, not {shown(text)}"
        ) from None
