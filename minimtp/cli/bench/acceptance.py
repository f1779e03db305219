"""`minimtp bench acceptance`: how many drafts a pretrained model accepts."""

import argparse

from minimtp.cli.options.values import whole_number
from minimtp.cli.parser import Commands, add_device, add_model, add_seed


def add_parser(measurements: Commands) -> None:
    parser = measurements.add(
        "acceptance",
        run,
        usage="MODEL [options]",
        summary="accepted drafts of a pretrained model with heads, on code, prose, chat and edits",
        example="minimtp bench acceptance runs/smollm2/mtp_qat_int4 --prompts 36",
    )
    add = parser.add_argument
    add_model(parser)
    add(
        "--prompts",
        type=whole_number,
        default=36,
        metavar="N",
        help="held-out prompts of each kind (default: 36)",
    )
    add(
        "--new-tokens",
        type=whole_number,
        default=96,
        metavar="N",
        help="tokens to generate after each prompt, at most (default: 96)",
    )
    add_device(parser)
    add_seed(parser)
    add("--out", metavar="FILE", help="also write the results as JSON")


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.decode.acceptance import measure_acceptance

    measure_acceptance(
        options.model,
        prompts=options.prompts,
        new_tokens=options.new_tokens,
        seed=options.seed,
        device=options.device,
        out=options.out,
    )
    return 0
