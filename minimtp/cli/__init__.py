"""The command line: minimtp train | generate | evaluate | quantize | export | compare | bench | doctor.

Each command is a thin function: it turns options into arguments, calls the library, and prints. What the library does not
accept arrives here as a UserError and becomes one line on standard error and exit code 2, a measurement that cannot be believed
exit code 1; Ctrl-C is exit code 130.

Results go to standard output, everything about the work (settings, choices, progress) to standard error. Nothing heavy is
imported before a command runs, so that `-h` answers at once.

    parser.py      the options of every command; those of `train` are made from the fields of the recipe
    values.py      what an option's value may look like, and the choice of kernels
    training.py    train, and the recipe that its options describe
    writing.py     generate
    measuring.py   evaluate, quantize, export, compare, bench, doctor
"""

import os
import sys

from minimtp.cli.parser import make_parser
from minimtp.cli.training import train
from minimtp.errors import MeasurementFailed, UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a model may write what the terminal cannot show
    parser = make_parser()
    try:
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.print_help()
            return 0
        if options.command is not train:
            from minimtp.training import distributed

            distributed.refuse_several(options.command.__name__.replace("_", " "))
        code = options.command(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"minimtp: {error}", file=sys.stderr)
        return 2
    except MeasurementFailed as error:
        print(f"minimtp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(f"\nminimtp: {str(stopped) or 'stopped'}", file=sys.stderr)
        return 130
    except (
        BrokenPipeError
    ):  # the reader of our output has seen enough: what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:  # CuPy's, too
        print(
            "minimtp: the memory is full: take a smaller batch, context or width, or fewer prompts at once",
            file=sys.stderr,
        )
        return 2
    except OSError as error:  # a full disk, a missing right: where nobody closer to it knew better
        what, why = error.filename or "the system", error.strerror or error
        print(f"minimtp: {what}: {why}; make room, or give another path", file=sys.stderr)
        return 2
