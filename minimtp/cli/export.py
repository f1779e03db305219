"""`minimtp export`: write a model for llama.cpp or for transformers."""

import argparse
from typing import TYPE_CHECKING

from minimtp.cli.parser import Commands, add_model
from minimtp.quoting import command

if TYPE_CHECKING:
    from minimtp.formats.exported import Exported


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "export",
        run,
        usage="MODEL --out FILE.gguf|FOLDER [--draft FILE.gguf|FOLDER]",
        summary="write a model, and its eagle3 heads, for llama.cpp (a GGUF file) or for "
        "transformers and vLLM (a folder)",
        example="minimtp export runs/mine-int4 --out mine.gguf --draft mine-eagle3.gguf",
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
    parser.add_argument(
        "--draft",
        metavar="PATH",
        help="also write the eagle3 heads of the model, as a GGUF file or a folder like --out",
    )
    parser.add_argument(
        "--draft-format",
        choices=("llama", "speculators"),
        help="form of a folder for the heads: llama (the default) for vLLM and SGLang, speculators "
        "for the library speculators and vLLM",
    )


def run(options: argparse.Namespace) -> int:
    import minimtp

    loaded = minimtp.load(options.model)
    done = minimtp.export(loaded, options.out, options.dtype, options.draft, options.draft_format)
    _report(done, "the tokenizer")
    if done.draft is not None:
        _report(done.draft, "the draft vocabulary" if loaded.model.heads.draft_vocabulary else None)
    if done.path.is_dir():
        call = f"AutoModelForCausalLM.from_pretrained({str(done.path)!r})"
        print(f"load it with transformers: {call}")
    else:
        print(f"run it with llama.cpp: {_llama_command(done)}")
    return 0


def _report(done: "Exported", also: str | None) -> None:
    types = ", ".join(f"{count} in {kind}" for kind, count in done.types.most_common())
    contents = f"{done.types.total()} tensors ({types})" + (f" and {also}" if also else "")
    print(f"{done.path}: {done.size:,} bytes, {contents}")
    for caveat in done.caveats:
        print(f"note: {caveat}")


def _llama_command(done: "Exported") -> str:
    if done.draft is None or done.draft.path.is_dir():
        return command("llama-completion", "-m", done.path, "-no-cnv", "-p", "import ")
    draft = "--spec-type", "draft-eagle3", "-md", done.draft.path
    return command("llama-speculative-simple", "-m", done.path, *draft, "-p", "import ")
