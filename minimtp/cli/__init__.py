"""The command line: minimtp train | selfgen | generate | chat | evaluate | quantize | export |
compare | bench | plan | doctor.

One file per command. Each has two functions: `add_parser` declares the options, and `run` turns
them into arguments, calls the library and prints the result.

    process.py   the standard streams and Ctrl-C
    parser.py    the argument parser, and the options that several commands share
    text.py      generated text, printed while it is generated
    options/     how values are read, and groups of options: recipe, generation
    bench/       one file per measurement

Results go to standard output. Everything about the work itself (settings, choices, progress) goes
to standard error. A command imports the library when it runs, so that `-h` answers immediately.

Exit codes: 0 success, 1 a measurement that cannot be trusted, 2 an error of the user or the system,
130 Ctrl-C."""

import contextlib
import io
import sys
import warnings

from minimtp import __version__
from minimtp.cli import (
    bench,
    chat,
    compare,
    doctor,
    evaluate,
    export,
    generate,
    plan,
    process,
    quantize,
    selfgen,
    train,
)
from minimtp.cli.parser import Parser, add_commands
from minimtp.errors import MeasurementFailed, UserError, one_line
from minimtp.extras import first_cause

DESCRIPTION = (
    "Multi-token prediction, quantization-aware training and exact speculative decoding, "
    "from scratch."
)
# Options that decide how much memory a command takes.
LESS_MEMORY = ("--batch-size", "--context-length", "--context", "--threads")
COMMANDS = (
    train, selfgen, generate, chat, evaluate, quantize, export, compare, bench, plan, doctor,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    arguments: the command line. None: the command is this process, so its arguments, streams and
    signals are used.
    """
    interrupts = process.Interrupts() if arguments is None else None
    if interrupts:
        process.open_streams()
        process.drop_settings_of_progress_bars()
        if not sys.warnoptions:  # NumPy warns about overflow. An error says what matters.
            warnings.simplefilter("ignore", RuntimeWarning)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A model may generate characters that the terminal cannot show.
            stream.reconfigure(errors="replace")
    try:
        code = _run(arguments, interrupts)
    except UserError as error:
        code = _failed(str(error), 2)
    except MeasurementFailed as error:
        code = _failed(str(error), 1)
    except KeyboardInterrupt as stopped:
        print(file=sys.stderr)
        with contextlib.suppress(UserError, OSError):
            sys.stdout.flush()
        return _failed(str(stopped) or "stopped", 130)
    except BrokenPipeError:  # the reader has closed our output: discard the rest
        process.discard(sys.stdout.fileno())
        code = 0
    except MemoryError:  # before the command began
        code = _failed("out of memory", 2)
    except Exception as error:
        if not interrupts or not interrupts.requested:
            sentence = _explained(error)
            if sentence is None:
                raise
            code = _failed(one_line(sentence), 2)
        else:
            code = 1
    if code and interrupts and interrupts.requested:  # a library gave Ctrl-C another name
        code = _failed("stopped", 130)
    return code


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


def _run(arguments: list[str] | None, interrupts: process.Interrupts | None) -> int:
    try:
        code = _parse_and_run(arguments, interrupts)
    except SystemExit as end:  # after the help
        if interrupts is None:
            raise
        code = end.code or 0
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def _parse_and_run(arguments: list[str] | None, interrupts: process.Interrupts | None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    if interrupts:
        interrupts.watch()
        if "out" in options or getattr(options, "trace", None):
            process.keep_going()
    if options.command is not train.run:
        from minimtp.training.run.mpirun import refuse_several

        refuse_several(options.command_name)
    try:
        return options.command(options)
    except MemoryError:  # CuPy raises a subclass
        names = [name for name in LESS_MEMORY if name in options.parser.option_names]
        advice = f"lower {' or '.join(names)}, or " if names else ""
        raise UserError(f"out of memory: {advice}use a smaller model") from None


def _explained(error: Exception) -> str | None:
    """Return the sentence for an error of the system that no other code has explained, or None if
    it is a defect of minimtp.
    """
    if isinstance(error, ImportError):
        return f"a library cannot be loaded ({first_cause(error)}): reinstall it, or free memory"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "the system starts no more threads: lower --threads, or raise the limit (ulimit -u)"
    if not isinstance(error, OSError):
        return None
    from minimtp.files import advice_for, reason_for
    from minimtp.quoting import shown_path

    path = shown_path(error.filename or "the system")
    return f"{path}: {reason_for(error)}: {advice_for(error)}"


def _failed(message: str, code: int) -> int:
    print(f"minimtp: {message}", file=sys.stderr)
    return code
