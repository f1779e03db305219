"""`minimtp bench llama`: one model in minimtp and in llama.cpp."""

import argparse

from minimtp.cli.options.values import whole_number
from minimtp.cli.parser import Commands, add_kernels, add_model, add_seed, use_kernels


def add_parser(measurements: Commands) -> None:
    parser = measurements.add(
        "llama",
        run,
        usage="MODEL [options]",
        summary="speed and greedy texts of one model in minimtp and in llama.cpp",
        example="minimtp bench llama model.gguf --threads 1 2",
    )
    add = parser.add_argument
    add_model(parser)
    add(
        "--threads",
        nargs="+",
        type=whole_number,
        default=[1],
        metavar="N",
        help="numbers of threads of llama.cpp, each measured (default: 1)",
    )
    add("--texts", nargs="+", choices=("code", "prose", "random"), help="default: code")
    for name, default, meaning in (
        ("prompts", 8, "number of prompts per kind of text"),
        ("prompt", 64, "tokens per prompt"),
        ("max-new-tokens", 128, "maximum number of new tokens per prompt"),
        ("repeats", 3, "how often each prompt is measured"),
    ):
        add(
            f"--{name}",
            type=whole_number,
            default=default,
            metavar="N",
            help=f"{meaning} (default: {default})",
        )
    add_seed(parser)
    add("--out", metavar="DIR", help="also write the results as JSON")
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.decode.beside_llama import measure_beside_llama
    from minimtp.bench.decode.prompts import Sizes

    use_kernels(options)
    measure_beside_llama(
        options.model,
        sizes=Sizes(options.prompts, options.prompt, options.max_new_tokens, options.repeats),
        threads=options.threads,
        texts=options.texts or ("code",),
        seed=options.seed,
        out=options.out,
    )
    return 0
