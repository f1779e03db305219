"""The options of every command."""

import argparse

from minimtp import __version__
from minimtp.cli.measuring import (
    bench,
    bench_decode,
    bench_kernels,
    bench_quality,
    bench_rounds,
    bench_train,
    compare,
    doctor,
    evaluate,
    export,
    quantize,
)
from minimtp.cli.training import train
from minimtp.cli.values import length, number, numbers, whole
from minimtp.cli.writing import generate
from minimtp.errors import UserError
from minimtp.training.presets import PRESETS
from minimtp.training.recipe import GROUPS, PRECISIONS, SETTINGS, check_known, kind_of

DEVICES = ("cpu", "cuda")  # to measure
OF_ALL = {"all": "--all", "all_preset": "--preset", "all_device": "--device", "all_out": "--out"}
DESCRIPTION = "Multi-token prediction, quantization-aware training and exact speculative decoding, from scratch."


class Parser(argparse.ArgumentParser):
    """argparse with errors of one sentence, and the closest spelling for an unknown option or command."""

    def __init__(self, **settings: object) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings
        )

    def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
        options, unknown = self.parse_known_args(arguments)
        for name in unknown:
            if name.startswith("-"):
                check_known("option", name.partition("=")[0], options.known_options)
            raise UserError(f"unexpected argument {name!r}: see minimtp -h")
        if options.command is not bench and any(
            given := [option for name, option in OF_ALL.items() if name in options]
        ):
            where = "leave out the name" if "all" in options else f"put {given[0]} behind the name"
            raise UserError(
                f"bench takes --all with its options or the name of a measurement, not both: {where}"
            )
        return options

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        if not action.option_strings:
            check_known("command", str(value), action.choices)
        raise UserError(
            f"{action.option_strings[0]} must be one of {', '.join(map(str, action.choices))}, not {value!r}"
        )

    def error(self, message: str) -> None:
        raise UserError(f"{message}: see {self.prog} -h")


def make_parser() -> Parser:
    """All commands and options."""
    parser = Parser(prog="minimtp", description=DESCRIPTION, epilog="example: minimtp compare")
    parser.set_defaults(command=None, known_options=["--help", "--version"])
    parser.add_argument("--version", action="version", version=f"minimtp {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="")

    def command(function: object, usage: str, summary: str, example: str) -> Parser:
        *above, name = words = function.__name__.split("_")
        usage, epilog = f"minimtp {' '.join(words)} {usage}", f"example:\n  {example}"
        new = (measurements if above else commands).add_parser(
            name, usage=usage, help=summary, description=summary, epilog=epilog
        )
        new.set_defaults(command=function)
        return new

    new = command(
        train,
        "[options]",
        "train a model",
        "minimtp train --preset quick --heads token_conditioned --out runs/mine",
    )
    new.add_argument(
        "--preset",
        choices=PRESETS,
        help="start from these settings; options below change single ones",
    )
    new.add_argument(
        "--recipe",
        metavar="FILE",
        help="start from the settings in a JSON file, such as a run's recipe.json",
    )
    _add_corpus(new)
    new.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="a file of the tokenizers library (default: --from's, else bytes)",
    )
    new.add_argument("--out", metavar="DIR", help="the run folder to write (default: runs/PRESET)")
    new.add_argument("--resume", action="store_true", help="go on with the run in --out")
    new.add_argument(
        "--from",
        dest="start_from",
        metavar="RUN",
        help="start from the weights and settings of another run",
    )
    new.add_argument(
        "--continue-schedule",
        action="store_true",
        help="with --from: also from its step and its optimizer",
    )
    new.add_argument(
        "--stop-at-step", type=whole, metavar="N", help="save and stop there, as if interrupted"
    )
    new.add_argument(
        "--self-generated",
        type=whole,
        metavar="N",
        help="train on N tokens that the run of --from writes first",
    )
    new.add_argument(
        "--teacher", metavar="RUN", help="the run whose probabilities --distill-weight follows"
    )
    _add_machine(new)
    for group, title in GROUPS.items():
        section = new.add_argument_group(f"recipe: {title}")
        for setting in SETTINGS.values():
            if setting.metadata["group"] == group:
                _add_setting(section, setting)

    new = command(
        generate,
        "RUN [options]",
        "continue a text",
        'minimtp generate runs/mine --prompt "import " --temperature 0.7 --show',
    )
    new.add_argument("run", metavar="RUN", help="a run folder, or a .gguf file")
    new.add_argument("--prompt", action="append", default=[], metavar="TEXT",
                     help='the text to continue, - for standard input; repeat it for several (default: "import ")')  # fmt: skip
    new.add_argument(
        "--prompts",
        metavar="FILE",
        help="texts to continue, one a line; each is as if it were alone",
    )
    new.add_argument(
        "--max-new-tokens",
        type=whole,
        default=256,
        metavar="N",
        help="tokens to write at most (default: 256)",
    )
    new.add_argument(
        "--temperature",
        type=number,
        default=0.0,
        metavar="T",
        help="0: always the likeliest (default: 0)",
    )
    new.add_argument(
        "--top-k",
        type=whole,
        default=0,
        metavar="K",
        help="choose among the K likeliest (default: 0, all)",
    )
    new.add_argument(
        "--top-p",
        type=number,
        default=1.0,
        metavar="P",
        help="choose among the likeliest that make up P",
    )
    new.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="same seed, same text (default: 0)"
    )
    new.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end where the new text says this; repeatable",
    )
    new.add_argument("--repetition-penalty", type=number, default=1.0, metavar="X",
                     help="above 1 makes what was already said less likely (default: 1)")  # fmt: skip
    new.add_argument("--draft", default="heads", metavar="heads|ngram|model:RUN|none",
                     help="what drafts: the heads (default), the text's own repetitions, a smaller run")  # fmt: skip
    new.add_argument("--draft-length", type=length, default="auto", metavar="auto|N",
                     help="tokens to draft at once: as many as pay (default: auto), or N at most")  # fmt: skip
    new.add_argument("--draft-confidence", type=float, default=0.05, metavar="P",
                     help="stop drafting where the heads give the draft less probability (default: 0.05)")  # fmt: skip
    new.add_argument("--tree", type=whole, default=0, metavar="N",
                     help="draft trees of up to N tokens, broad where the heads are unsure; where they pay")  # fmt: skip
    new.add_argument("--rule", default="shared-noise", metavar="NAME",
                     help="how sampled drafts are verified: shared-noise (default; same seed, same text, whatever is drafted), "
                     "token, block (both: the same law, more drafts accepted) or match")  # fmt: skip
    new.add_argument(
        "--show",
        action="store_true",
        help="colour what was drafted and accepted, and what was rejected",
    )
    new.add_argument(
        "--trace",
        metavar="FILE",
        help="write a page for a browser, in which the text grows round by round",
    )
    _add_device(new)
    _add_kernels(new)

    new = command(
        evaluate,
        "RUN [options]",
        "measure a model on held-out text",
        "minimtp evaluate runs/mine --corpus notes.txt",
    )
    new.add_argument("run", metavar="RUN", help="a run folder, or a .gguf file")
    _add_corpus(new)
    new.add_argument(
        "--tokens",
        type=whole,
        metavar="N",
        help="how many to predict at most (default: the recipe's)",
    )
    new.add_argument("--json", action="store_true", help="print JSON")
    _add_machine(new)

    new = command(
        quantize,
        "RUN --out DIR [options]",
        "round a model's weights",
        "minimtp quantize runs/mine --method gptq --out runs/mine-int4",
    )
    new.add_argument("run", metavar="RUN", help="a run folder")
    new.add_argument(
        "--bits", type=whole, choices=(4, 8), help="short for --grid q4_0 or --grid q8_0"
    )
    new.add_argument(
        "--grid",
        metavar="NAME",
        help="grid of the matrices (default: q4_0, or what the run was trained for)",
    )
    new.add_argument("--method", metavar="NAME",
                     help="rtn (the default), hqq, importance, awq or gptq, unless trained through rounding")  # fmt: skip
    new.add_argument("--head-grid", metavar="NAME",
                     help="of the prediction heads; measured: by their drafts' acceptance (default: as --grid)")  # fmt: skip
    new.add_argument("--calibration", nargs="+", default=[], metavar="PATH",
                     help="text for importance, awq and gptq (default: what the run was trained on)")  # fmt: skip
    new.add_argument("--out", required=True, metavar="DIR", help="the run folder to write")

    new = command(
        export, "RUN --out FILE", "write a run's trunk as a GGUF file, which llama.cpp runs",
        "minimtp export runs/mine-int4 --out mine.gguf",
    )  # fmt: skip
    new.add_argument("run", metavar="RUN", help="a run folder")
    new.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="the file to write; one that is there is replaced",
    )

    new = command(
        compare,
        "[options]",
        "train, decode and compare the three configurations",
        "minimtp compare --preset quick",
    )
    new.add_argument("--preset", choices=PRESETS, default="quick", help="default: quick")
    new.add_argument(
        "--out", metavar="DIR", default=None, help="where to write (default: runs/compare-PRESET)"
    )
    new.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of everything random (default: 0)"
    )
    _add_corpus(new)
    _add_machine(new)

    new = command(
        bench,
        "WHAT [options] | --all",
        "measure speed, beside others where they are installed",
        "minimtp bench train",
    )
    given = {
        "default": argparse.SUPPRESS
    }  # so that one sees which were: measurements have options of the same names
    new.add_argument(
        "--all",
        action="store_true",
        help="compare, and every measurement but rounds, of one preset",
        **given,
    )
    new.add_argument("--preset", dest="all_preset", metavar="quick|tiny|gpu", help="how much --all measures (default: quick)",
                     **given)  # fmt: skip
    new.add_argument(
        "--device",
        dest="all_device",
        choices=DEVICES,
        help="what --all measures (default: cpu)",
        **given,
    )
    new.add_argument("--out", dest="all_out", metavar="DIR", help="folder of --all, and to go on in (default: "
                     "runs/bench-PRESET)", **given)  # fmt: skip
    measurements = new.add_subparsers(title="what", metavar="")

    new = command(
        bench_train, "[options]", "training, in turn with PyTorch where it is installed",
        "minimtp bench train --threads 1",
    )  # fmt: skip
    new.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="whose standard model to train (default: quick)",
    )
    new.add_argument(
        "--steps", type=whole, default=20, metavar="N", help="training steps a round (default: 20)"
    )
    new.add_argument(
        "--rounds", type=whole, default=5, metavar="N", help="rounds of each side (default: 5)"
    )
    new.add_argument(
        "--threads",
        type=whole,
        metavar="N",
        help="for each side, on the CPU (default: one for each core)",
    )
    _add_measured_device(new)
    new.add_argument("--precision", choices=PRECISIONS, default="float32",
                     help="of the products, on a GPU: float32 (default), tf32, bfloat16 or float16")  # fmt: skip
    new.add_argument("--out", metavar="FILE", help="also write what was found as JSON")
    _add_kernels(new)

    new = command(
        bench_quality, "[options]", "what rounding costs, and what each method wins back",
        "minimtp bench quality --bits 4,2 --seeds 1",
    )  # fmt: skip
    new.add_argument(
        "--preset",
        default="quick",
        metavar="quick|tiny",
        help="how much is trained (default: quick)",
    )
    new.add_argument(
        "--bits",
        type=numbers,
        default=(8, 4, 3, 2),
        metavar="N,N",
        help="among 8,4,3,2 (default: all)",
    )
    new.add_argument(
        "--seeds", type=whole, default=3, metavar="N", help="models of each kind (default: 3)"
    )
    new.add_argument("--threads", type=whole, metavar="N", help="default: one for each core")
    new.add_argument(
        "--out",
        metavar="DIR",
        help="folder to work in, and to go on from (default: runs/quality-PRESET)",
    )
    _add_corpus(new)
    _add_kernels(new)

    new = command(
        bench_kernels, "[options]", "products of 1 to 16 rows, beside the memory's speed and NumPy's product",
        "minimtp bench kernels --max-size 64",
    )  # fmt: skip
    new.add_argument("--max-size", type=whole, default=512, metavar="MB",
                     help="of a matrix in float32; 512, the default, exceeds most caches even as int4")  # fmt: skip
    new.add_argument(
        "--rounds", type=whole, default=5, metavar="N", help="rounds of each product (default: 5)"
    )
    _add_measured_device(new)
    new.add_argument(
        "--out", metavar="FILE", help="also write what was found as JSON, and a picture beside it"
    )

    new = command(
        bench_decode, "RUN [options]", "every way of drafting with every rule, on code, prose and random text",
        "minimtp bench decode runs/mine --out runs/bench",
    )  # fmt: skip
    new.add_argument("run", metavar="RUN", help="a run folder, or a .gguf file")
    new.add_argument(
        "--small", metavar="RUN", help="a smaller run with the same tokens, to draft as well"
    )
    new.add_argument("--temperatures", nargs="+", type=number, metavar="T", help="default: 0 0.7 1")
    new.add_argument(
        "--texts", nargs="+", choices=("code", "prose", "random"), help="default: all three"
    )
    new.add_argument(
        "--prompts", type=whole, default=8, metavar="N", help="of each kind of text (default: 8)"
    )
    new.add_argument(
        "--prompt", type=whole, default=32, metavar="N", help="tokens of a prompt (default: 32)"
    )
    new.add_argument(
        "--max-new-tokens",
        type=whole,
        default=96,
        metavar="N",
        help="tokens to write at most (default: 96)",
    )
    new.add_argument(
        "--repeats", type=whole, default=3, metavar="N", help="turns of every prompt (default: 3)"
    )
    new.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of everything random (default: 0)"
    )
    new.add_argument("--out", metavar="DIR", help="also write what was found as JSON, and draw it")
    _add_device(new)
    _add_kernels(new)

    new = command(
        bench_rounds, "RUN [options]", "tokens a round of every rule, with chains and trees, from the same places; no seconds",
        "minimtp bench rounds runs/mine",
    )  # fmt: skip
    new.add_argument("run", metavar="RUN", help="a run folder, or a .gguf file")
    new.add_argument(
        "--small", metavar="RUN", help="a smaller run with the same tokens, to draft as well"
    )
    new.add_argument("--temperatures", nargs="+", type=number, metavar="T", help="default: 0 1")
    new.add_argument(
        "--texts", nargs="+", choices=("code", "prose", "random"), help="default: code prose"
    )
    new.add_argument(
        "--places", type=whole, default=1000, metavar="N", help="of each text (default: 1000)"
    )
    new.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of everything random (default: 0)"
    )
    new.add_argument("--out", metavar="DIR", help="also write what was found as JSON")
    _add_device(new)
    _add_kernels(new)

    new = command(doctor, "[options]", "say what would be used here, and why", "minimtp doctor")
    _add_kernels(new)
    for new in (*commands.choices.values(), *measurements.choices.values()):
        new.set_defaults(known_options=list(new._option_string_actions))
    return parser


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", nargs="+", default=[], metavar="PATH",
                        help="text files and folders, or stdlib (the default), shakespeare, bible")  # fmt: skip


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto"
    )


def _add_measured_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=DEVICES, default="cpu", help="what to measure (default: cpu)"
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    _add_device(parser)
    parser.add_argument("--threads", type=whole, metavar="N", help="default: one for each core")
    _add_kernels(parser)


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernels",
        choices=("auto", "plain"),
        help="plain: array code even where compiled code exists",
    )


def _add_setting(section: object, setting: object) -> None:
    """One option for one field of the recipe; it appears among the parsed options only if it was given."""
    kind, allowed, text = kind_of(setting), setting.metadata["allowed"], setting.metadata["help"]
    name, destination = "--" + setting.name.replace("_", "-"), f"recipe.{setting.name}"
    if setting.default is not None:
        text += f" (default: {'yes' if setting.default is True else 'no' if setting.default is False else setting.default})"
    if kind is bool:
        section.add_argument(
            name,
            dest=destination,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=text,
        )
    else:
        words = "|".join(allowed) if kind is str and allowed else "NAME"
        metavar = {int: "N", float: "X", str: words}[kind]
        convert = {int: whole, float: number, str: str}[kind]
        section.add_argument(
            name,
            dest=destination,
            type=convert,
            default=argparse.SUPPRESS,
            metavar=metavar,
            help=text,
        )
