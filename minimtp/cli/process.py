"""The process of a command: its standard streams, and what stops it.

**Streams.** Each of the three may be closed, full or a pipe whose reader has gone. What is wrong
with standard error never matters: it carries progress and notes, so what cannot be written is
dropped. Standard output carries results: if it is closed from the start, nobody wants them; if it
fails later, the command ends with one sentence. Characters that a stream cannot encode become
question marks.

**Ctrl-C.** Python raises KeyboardInterrupt wherever the process happens to be. In the middle of an
import or of a destructor, libraries replace it by errors of their own, or drop it. `Interrupts`
therefore remembers that it was pressed. SIGTERM, from `kill` or `timeout`, and SIGHUP, from a
terminal that is closed, are treated in the same way.
"""

import _thread
import contextlib
import errno
import io
import os
import select
import signal
import sys
from threading import Timer
from types import FrameType

from minimtp.errors import UserError

# tqdm takes the settings of every progress bar from variables that begin with TQDM_. Most would
# break our bars (TQDM_TOTAL, TQDM_FILE), and those that it cannot read end the program.
TQDM_TIMES = ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL")


def drop_settings_of_progress_bars() -> None:
    """Remove tqdm's variables from this process's environment, but for the two intervals."""
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        if name not in TQDM_TIMES or not _is_time(os.environ[name]):
            del os.environ[name]


def _is_time(text: str) -> bool:
    try:
        return 0 <= float(text) < 1e6
    except ValueError:
        return False


# On Windows there is no SIGHUP.
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
LATER = 0.005  # seconds until a signal is repeated; again, if the destructor still runs then


class Interrupts:
    """Handles the signals that stop the process. requested: whether one of them came."""

    def __init__(self) -> None:
        self.requested = False
        self._number = signal.SIGINT  # the last signal
        self._timer: Timer | None = None

    def watch(self) -> None:
        """Begin. What the process was started to ignore it keeps ignoring: a shell does that with
        Ctrl-C for commands in the background, and `nohup` with SIGHUP.
        """
        sys.unraisablehook = self._unraisable
        for number in STOPS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested, self._number = True, number
        while frame is not None:
            if frame.f_code is Interrupts._unraisable.__code__:
                return self._repeat()  # an error would be dropped here
            frame = frame.f_back
        raise KeyboardInterrupt

    def _unraisable(self, unraisable: object) -> None:
        """Repeat a signal that came in a destructor or a callback, where the error is dropped."""
        if unraisable.exc_type is KeyboardInterrupt:
            self._repeat()
        else:
            sys.__unraisablehook__(unraisable)

    def _repeat(self) -> None:
        if self._timer is not None and self._timer.is_alive():
            return
        self._timer = Timer(LATER, _thread.interrupt_main, (self._number,))
        self._timer.daemon = True
        with contextlib.suppress(RuntimeError):  # no thread can start: the process is ending
            self._timer.start()


class Output(io.FileIO):
    """Standard output without buffer. After a failure, it discards everything.

    is_all: whether the command has no other result than what it prints. If so, a pipe whose reader
    has gone ends the command. If not, the command goes on and writes its files.
    """

    is_all = True

    def write(self, data: bytes) -> int:
        try:
            while (
                written := super().write(data)
            ) is None:  # a pipe that does not wait, and is full
                select.select([], [self], [])
            return written
        except OSError as error:
            discard(self.fileno())
            if error.errno == errno.EPIPE:
                if self.is_all:
                    raise
                return len(data)
            raise UserError(
                f"standard output cannot be written ({error.strerror}): "
                "free disk space, or send it elsewhere"
            ) from None


class Notes(io.FileIO):
    """Standard error without buffer. What cannot be written is dropped."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def open_streams() -> None:
    """Make the three standard streams usable, whatever this process was started with."""
    # A closed descriptor would be given to the next file that is opened, such as a checkpoint, and
    # text that a library prints would be written into it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  (open until the process ends)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    sys.stdout = _text_stream(sys.stdout, Output(1, "w", closefd=False))
    sys.stderr = _text_stream(sys.stderr, Notes(2, "w", closefd=False))


def _text_stream(before: io.TextIOWrapper | None, raw: io.FileIO) -> io.TextIOWrapper:
    """Return a text stream that writes to `raw`, and is otherwise like the stream `before`."""
    if before is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "replace")
    before.flush()
    return io.TextIOWrapper(
        raw if before.write_through else io.BufferedWriter(raw),
        encoding=before.encoding,
        errors="replace",
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )


def keep_going() -> None:
    """Let this process continue if the reader of its standard output has gone."""
    raw = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
    raw.is_all = False


def discard(descriptor: int) -> None:
    """Let everything that is written to the descriptor from now on disappear."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
