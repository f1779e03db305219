"""The argument parser, the options that several commands share, and notes about options without
effect.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable

from minimtp.cli.options.dashes import join_values
from minimtp.cli.options.values import seed, whole_number
from minimtp.errors import UserError, shown
from minimtp.model.config import KV_CACHES
from minimtp.training.settings import check_known

Run = Callable[[argparse.Namespace], int]  # runs a command and returns the exit code


class Parser(argparse.ArgumentParser):
    """argparse with error messages of one sentence that suggest the closest option or command."""

    def __init__(self, **settings: object) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings
        )

        self.set_defaults(parser=self)

    @property
    def option_names(self) -> list[str]:
        return list(self._option_string_actions)

    def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
        """Parse the command line. Raises UserError for options or values that are not accepted."""
        arguments = sys.argv[1:] if arguments is None else arguments
        options, unknown = self.parse_known_args(join_values(self, arguments))
        options_end = unknown.index("--") if "--" in unknown else len(unknown)
        for place, name in enumerate(unknown):
            if place == options_end:
                continue
            if name.startswith("-") and place < options_end:
                check_known("option", name.partition("=")[0], options.parser.option_names)
            raise UserError(f"unexpected argument {shown(name)!r}: see {options.parser.prog} -h")
        if options.check:
            options.check(options)
        return options

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        if not action.option_strings:
            check_known("command", str(value), action.choices)
        option, choices = action.option_strings[0], ", ".join(map(str, action.choices))
        raise UserError(f"{option} must be one of {choices}, not {shown(value)!r}")

    def _get_values(self, action: argparse.Action, strings: list[str]) -> object:
        if strings == ["--"] and action.option_strings and action.nargs is None:
            # As the value of an option, which older versions of argparse would remove.
            self._check_value(action, value := self._get_value(action, "--"))
            return value
        return super()._get_values(action, strings)

    def _get_value(self, action: argparse.Action, string: str) -> object:
        if not string and action.metavar != "TEXT" and action.nargs != argparse.PARSER:
            # Most often a variable of the shell that is not set. It must not mean the default.
            name = action.option_strings[0] if action.option_strings else action.metavar
            raise UserError(
                f"{name} is empty: give a value{', or leave it out' * (name[0] == '-')}"
            )
        return super()._get_value(action, string)

    def error(self, message: str) -> None:
        forgotten = re.fullmatch(r"argument (\S+): expected one argument", message)
        hint = f" (write {forgotten[1]}=VALUE if it begins with dashes)" if forgotten else ""
        raise UserError(f"{shown(message, 200)}{hint}: see {self.prog} -h")


class Commands:
    """The commands below a parser; `prefix` is the command line that selects them."""

    def __init__(self, subparsers: argparse._SubParsersAction, prefix: str) -> None:
        self._subparsers = subparsers
        self._prefix = prefix

    def add(self, name: str, run: Run, *, usage: str, summary: str, example: str) -> Parser:
        """Add the command `name` and return its parser. `run` is called with the parsed options."""
        full_name = f"{self._prefix} {name}"
        parser = self._subparsers.add_parser(
            name,
            usage=f"{full_name} {usage}",
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {example}",
        )
        parser.set_defaults(command=run, command_name=full_name.removeprefix("minimtp "))
        return parser


def add_commands(parser: Parser, title: str, placeholder: str) -> Commands:
    """Let `parser` have commands. `placeholder` stands for a command's name in its usage line."""
    subparsers = parser.add_subparsers(title=title, metavar=placeholder, prog=parser.prog)
    return Commands(subparsers, parser.prog)


def add_model(parser: Parser) -> None:
    parser.add_argument(
        "model", metavar="MODEL",
        help="a run folder, a folder of transformers, a GGUF file, or smollm2",
    )  # fmt: skip


def add_corpus(parser: Parser) -> None:
    parser.add_argument(
        "--corpus", nargs="+", default=[], metavar="PATH",
        help="text files and folders, a folder of minimtp selfgen, or one of stdlib (Python's own "
        "source code, the default), pydoc (its documentation), shakespeare, bible",
    )  # fmt: skip
    add_encoding(parser)


def add_encoding(parser: argparse.ArgumentParser, texts: str = "text files that") -> None:
    parser.add_argument(
        "--encoding",
        metavar="NAME",
        help=f"encoding of {texts} are not UTF-8 and have no byte order mark, such as cp1251, or "
        "several to try in this order: gbk,cp1251",
    )


def add_context(parser: Parser, help_text: str) -> None:
    parser.add_argument("--context", type=whole_number, metavar="N", help=help_text)


def add_device(parser: Parser) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute: auto (the default) takes a usable GPU, otherwise the CPU",
    )


def add_small_run(parser: Parser) -> None:
    parser.add_argument(
        "--small",
        metavar="PATH",
        help="also draft with this smaller model, which must have the same tokenizer, or with this "
        "EAGLE-3 head in place of the model's own",
    )


def add_measured_device(parser: Parser) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="device to measure (default: cpu)"
    )


def add_threads(parser: Parser, default: str = "one per core") -> None:
    parser.add_argument(
        "--threads", type=whole_number, metavar="N", help=f"number of threads (default: {default})"
    )


DECODING = (
    "float16 and int8 round keys and values a little, and long texts then need less memory and "
    "time; only on the CPU"
)


def add_kv_cache(parser: Parser, effect: str = DECODING) -> None:
    parser.add_argument(
        "--kv-cache",
        choices=KV_CACHES,
        default="float32",
        help="number format of the KV cache (default: float32, or that of a model trained with "
        f"another); {effect}",
    )


def add_kernels(parser: Parser) -> None:
    parser.add_argument(
        "--kernels",
        choices=("auto", "plain"),
        help="auto: compiled code if there is any (the default); plain: array code only, slower",
    )


def add_seed(parser: Parser) -> None:
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="random seed (default: 0)"
    )


def use_kernels(options: argparse.Namespace) -> None:
    """Apply --kernels to this process."""
    if options.kernels:
        from minimtp import kernels

        kernels.use(options.kernels)


def given(options: argparse.Namespace, names: Iterable[str] | None = None) -> list[str]:
    """Return the options of the command, or those among `names`, whose values are not the default.

    A value that equals the default counts as not given: it changes nothing either way.
    """
    actions = options.parser._option_string_actions  # argparse has no public list of its options
    chosen = []
    for name in actions if names is None else names:
        action = actions.get(name)
        if action is None or action.dest in ("help", argparse.SUPPRESS):
            continue
        if action.default is argparse.SUPPRESS:  # in the namespace only if it was given
            differs = hasattr(options, action.dest)
        else:
            differs = getattr(options, action.dest) != action.default
        if differs and action.dest not in [actions[other].dest for other in chosen]:
            chosen.append(name)
    return chosen


def note_unused(options: argparse.Namespace, names: Iterable[str] | None, reason: str) -> None:
    """Say in one line on standard error which of the options `names` were given without effect.

    names: None means all options of the command.
    """
    useless = given(options, names)
    if useless:
        have = "has" if len(useless) == 1 else "have"
        print(
            f"minimtp: {shown(', '.join(useless), 100)} {have} no effect: {reason}", file=sys.stderr
        )


def note_unused_threads(options: argparse.Namespace) -> None:
    """Say that a GPU needs no threads, if --threads was given. Raises UserError as
    `choose_device` does.
    """
    if options.threads is not None:
        from minimtp.backend import choose_device

        if choose_device(options.device).name != "cpu":
            note_unused(options, ["--threads"], "they share the work of a CPU, and a GPU is used")
