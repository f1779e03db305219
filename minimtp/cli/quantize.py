"""`minimtp quantize`: store a model's weights in few bits."""

import argparse

from minimtp.cli.options.values import whole_number
from minimtp.cli.parser import Commands, add_context, add_encoding, add_model, note_unused
from minimtp.errors import UserError


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "quantize",
        run,
        usage="MODEL --out DIR [options]",
        summary="store a model's weights in few bits",
        example="minimtp quantize runs/mine --method gptq --out runs/mine-int4",
    )
    add = parser.add_argument
    add_model(parser)
    add("--bits", type=whole_number, choices=(4, 8), help="short for --grid q4_0 or --grid q8_0")
    add(
        "--grid",
        metavar="NAME",
        help="number format of the weights, such as q4_0, q8_0 or f16, or, as in q4_0,qkv=q5_0, "
        "another one for a matrix of each block: qkv, output, gate_up or down "
        "(default: the format the run was trained for, otherwise q4_0)",
    )
    add(
        "--method",
        metavar="NAME",
        help="rtn: round to nearest (the default); hqq: half-quadratic; importance: weighted by "
        "the inputs' size; "
        "awq: activation-aware; gptq: corrects each column's error in the next ones. "
        "A run that was trained with quantization needs none",
    )
    add(
        "--head-grid",
        metavar="NAME",
        help="number format of the prediction heads; a coarse one lowers the acceptance of drafts "
        "(default: as --grid)",
    )
    add(
        "--embedding-grid",
        metavar="NAME",
        help="number format of the token table and the output, such as q5_1, which is a third "
        "smaller (default: q8_0, or f16 with --grid f16)",
    )
    add(
        "--calibration",
        nargs="+",
        default=[],
        metavar="PATH",
        help="calibration text for importance, awq and gptq (default: the run's training text)",
    )
    add_context(
        parser,
        "tokens per window of calibration text (default: the model's context, but at most 512)",
    )
    add_encoding(parser, "calibration files that")
    add("--out", required=True, metavar="DIR", help="run folder to write")


def run(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.model.matrix import bits_per_weight, weight_bytes
    from minimtp.quant.ptq.methods import METHODS_WITH_TEXT
    from minimtp.training.quantize import MEASURED

    if options.bits and options.grid:
        raise UserError("--bits and --grid both choose the number format: use one of them")
    grid = f"q{options.bits}_0" if options.bits else options.grid
    loaded = minimtp.load(options.model, dequantize=True)
    if "dequantized_from" in loaded.state:
        grids = ", ".join(loaded.state["dequantized_from"])
        print(f"note: {options.model} holds weights in {grids}, which are rounded a second time")
    if options.method not in METHODS_WITH_TEXT and options.head_grid != MEASURED:
        reason = f"method {options.method or 'rtn'} reads no calibration text"
        note_unused(options, ["--context", "--encoding"], reason)
    elif not options.calibration:
        note_unused(options, ["--encoding"], "it is for the files of --calibration")
    packed = minimtp.quantize(
        loaded,
        options.out,
        grid,
        method=options.method,
        head_grid=options.head_grid,
        embedding_grid=options.embedding_grid,
        calibration=options.calibration,
        context_length=options.context,
        report=print,
        encoding=options.encoding,
    )
    before, after = loaded.model, packed.model
    print(
        f"{options.out}: {weight_bytes(after):,} bytes of weights, {bits_per_weight(after):.2f} "
        "bits per weight "
        f"(before: {weight_bytes(before):,} bytes, {bits_per_weight(before):.2f} bits)"
    )
    return 0
