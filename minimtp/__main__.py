"""`python -m minimtp` and the command `minimtp`.

Until the command begins, nothing has been written, so Ctrl-C ends the process immediately. That
includes the moment in which Python imports the package.
"""

import os
import signal
import sys
from types import FrameType

STOPPED = 130  # exit code


def main() -> int:
    """Run the command in this process's arguments and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_now)
    from minimtp.cli import main

    code = main()
    if code == STOPPED:
        # If Ctrl-C interrupted an `exec` of the standard library, Python would end this process
        # with the signal, which has no exit code.
        import atexit

        atexit._run_exitfuncs()
        os._exit(code)
    return code


def _end_now(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"\nminimtp: stopped\n")
    finally:
        os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main())
