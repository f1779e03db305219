"""`minimtp export`: write a model for llama.cpp or for transformers."""

import argparse
from pathlib import Path

from minimtp.cli.parser import Commands, add_model
from minimtp.quoting import command


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "export",
        run,
        usage="MODEL --out FILE.gguf|FOLDER",
        summary="write a model without its heads, for llama.cpp (a GGUF file) or transformers (a "
        "folder)",
        example="minimtp export runs/mine-int4 --out mine.gguf",
    )
    add_model(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="a name that ends in .gguf becomes a GGUF file (an earlier export is replaced); any "
        "other name becomes a folder for transformers",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="type of the weights in a folder (default: float32)",
    )


def run(options: argparse.Namespace) -> int:
    import minimtp

    done = minimtp.export(minimtp.load(options.model), options.out, options.dtype)
    types = ", ".join(f"{count} in {kind}" for kind, count in done.types.most_common())
    print(
        f"{done.path}: {done.size:,} bytes, {done.types.total()} tensors ({types}) and the "
        "tokenizer"
    )
    for caveat in done.caveats:
        print(f"note: {caveat}")
    if Path(done.path).is_dir():
        call = f"AutoModelForCausalLM.from_pretrained({str(done.path)!r})"
        print(f"load it with transformers: {call}")
    else:
        run_it = command("llama-completion", "-m", Path(done.path), "-no-cnv", "-p", "import ")
        print(f"run it with llama.cpp: {run_it}")
    return 0
