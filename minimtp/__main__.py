"""`python -m minimtp` and the command `minimtp`.

Until the command begins, nothing has been written, so Ctrl-C ends the process immediately. That
includes the moment in which Python imports the package.
"""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command in this process's arguments and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_now)
    from minimtp.cli import main

    return main()


def _end_now(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"\nminimtp: stopped\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
