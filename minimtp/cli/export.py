"""`minimtp export`: write a model for llama.cpp."""

import argparse
from pathlib import Path

from minimtp.cli.parser import Commands, add_run
from minimtp.quoting import command


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "export",
        run,
        usage="RUN --out FILE",
        summary="write a model without its heads as a GGUF file, which llama.cpp runs",
        example="minimtp export runs/mine-int4 --out mine.gguf",
    )
    add_run(parser, "a run folder")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="file to write; an earlier export is replaced"
    )


def run(options: argparse.Namespace) -> int:
    import minimtp

    done = minimtp.export(minimtp.load(options.run), options.out)
    types = ", ".join(f"{count} in {kind}" for kind, count in done.types.most_common())
    print(
        f"{done.path}: {done.size:,} bytes, {done.types.total()} tensors ({types}) and the "
        "tokenizer"
    )
    for caveat in done.caveats:
        print(f"note: {caveat}")
    run_it = command("llama-completion", "-m", Path(done.path), "-no-cnv", "-p", "import ")
    print(f"run it with llama.cpp: {run_it}")
    return 0
