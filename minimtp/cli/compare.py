"""`minimtp compare`: train, decode and compare the configurations."""

import argparse
from collections.abc import Iterable
from pathlib import Path

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
from minimtp.errors import UserError, shown
from minimtp.training.presets import PRESETS

TRAINED, PRETRAINED = "quick", "laptop"  # the default presets


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "compare",
        run,
        usage="[options]",
        summary="compare a plain model, one with prediction heads and one that is also int4: "
        "trained from scratch, or made from a pretrained model",
        example="minimtp compare --from smollm2",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="size of the model: tiny takes seconds, quick minutes (the default), laptop half an "
        "hour, gpu needs a GPU. With --from, amount of work: tiny takes minutes, laptop an hour "
        "(the default)",
    )
    parser.add_argument(
        "--from",
        dest="start_from",
        metavar="MODEL",
        help="compare configurations of this pretrained model, on texts of several kinds: a "
        "folder of transformers, a GGUF file, a run, or smollm2",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder to write, and to resume in (default: runs/compare-PRESET, or runs/MODEL)",
    )
    add_seed(parser)
    add_corpus(parser)
    add_device(parser)
    add_threads(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    from minimtp.compare.pretrained.sizes import SIZES
    from minimtp.compare.run import compare

    _check_preset(options, SIZES if options.start_from else PRESETS)
    use_kernels(options)
    note_unused_threads(options)
    if options.start_from:
        return _run_pretrained(options)
    if not options.corpus:
        note_unused(options, ["--encoding"], "it is for the files of --corpus")
    compare(
        options.preset or TRAINED,
        options.out,
        corpus=options.corpus,
        device=options.device,
        threads=options.threads,
        seed=options.seed,
        encoding=options.encoding,
    )
    return 0


def _check_preset(options: argparse.Namespace, choices: Iterable[str]) -> None:
    if options.preset not in (None, *choices):
        where = " with --from" if options.start_from else ""
        raise UserError(
            f"--preset must be one of {', '.join(choices)}{where}, not {shown(options.preset)!r}"
        )


def _run_pretrained(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.compare.pretrained.run import compare_pretrained

    if options.corpus:
        raise UserError(
            "a pretrained model is compared on code, prose and conversations: leave out --corpus"
        )
    note_unused(options, ["--encoding"], "it is for the files of --corpus")
    out = options.out or Path("runs", Path(options.start_from).stem)
    if Path(out).resolve() == Path(options.start_from).resolve():
        raise UserError(f"{out} is the model itself: choose another folder with --out")
    compare_pretrained(
        minimtp.load(options.start_from, options.device, dequantize=True),
        out,
        options.preset or PRETRAINED,
        device=options.device,
        threads=options.threads,
        seed=options.seed,
    )
    return 0
