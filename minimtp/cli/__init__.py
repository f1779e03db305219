"""The command line: minimtp train | generate | evaluate | quantize | export | compare | bench |
plan | doctor.

One file per command. Each has two functions: `add_parser` declares the options, and `run` turns
them into arguments, calls the library and prints the result.

    parser.py             the argument parser, and the options that several commands share
    values.py             how the value of an option is read
    dashes.py             values that begin with a dash
    recipe_options.py     the options of `train` that are made from the fields of the recipe
    generate_options.py   the options of `generate`
    bench/                one file per measurement

Results go to standard output. Everything about the work itself (settings, choices, progress) goes
to standard error. A command imports the library when it runs, so that `-h` answers immediately.

Exit codes: 0 success, 1 a measurement that cannot be trusted, 2 an error of the user or the system,
130 Ctrl-C."""

import io
import os
import sys

from minimtp import __version__
from minimtp.cli import bench, compare, doctor, evaluate, export, generate, plan, quantize, train
from minimtp.cli.parser import Parser, add_commands
from minimtp.errors import MeasurementFailed, UserError

DESCRIPTION = (
    "Multi-token prediction, quantization-aware training and exact speculative decoding, "
    "from scratch."
)
# Options that decide how much memory a command takes.
LESS_MEMORY = ("--batch-size", "--context-length", "--context", "--threads")
COMMANDS = (train, generate, evaluate, quantize, export, compare, bench, plan, doctor)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. arguments: the command line (default: this
    process's).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A model may generate characters that the terminal cannot show.
            stream.reconfigure(errors="replace")
    try:
        return _run(arguments)
    except UserError as error:
        return _failed(str(error), 2)
    except MeasurementFailed as error:
        return _failed(str(error), 1)
    except KeyboardInterrupt as stopped:
        print(file=sys.stderr)
        return _failed(str(stopped) or "stopped", 130)
    except BrokenPipeError:  # the reader has closed our output: discard the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a failure of the system that no other code has explained
        from minimtp.files import advice_for, reason_for
        from minimtp.quoting import shown_path

        path = shown_path(error.filename or "the system")
        return _failed(f"{path}: {reason_for(error)}: {advice_for(error)}", 2)


def make_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="minimtp",
        description=DESCRIPTION,
        epilog="start with: minimtp compare\n`minimtp COMMAND -h` explains a command.",
    )
    parser.set_defaults(command=None, check=None)
    parser.add_argument("--version", action="version", version=f"minimtp {__version__}")
    commands = add_commands(parser, "commands", "COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _run(arguments: list[str] | None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    if options.command is not train.run:
        from minimtp.training.run.mpirun import refuse_several

        refuse_several(options.command_name)
    try:
        code = options.command(options)
    except MemoryError:  # CuPy raises a subclass
        names = [name for name in LESS_MEMORY if name in options.parser.option_names]
        advice = f"lower {' or '.join(names)}, or " if names else ""
        raise UserError(f"out of memory: {advice}use a smaller model") from None
    sys.stdout.flush()
    return code


def _failed(message: str, code: int) -> int:
    print(f"minimtp: {message}", file=sys.stderr)
    return code
