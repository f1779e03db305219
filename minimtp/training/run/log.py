"""The log of a run, log.jsonl: one JSON object per line, of two kinds.

    {"step": 12, "tokens": 24576, "losses": [2.31, 2.9], "learning_rate": 0.004,
     "gradient_norm": 0.8, "seconds": 1.9}
    {"step": 100, "tokens": 204800, "evaluation": {"bits_per_byte": 2.4, ...}}

step: steps taken so far. losses: nats per token, for the next token and for each further depth
(null for a head that this step did not train). seconds: training time over all sessions.

Each line is written immediately. A resumed run first drops the lines after its checkpoint, so the
log holds each step once. It also drops lines that are damaged, and says how many. A damaged log
never prevents a run from being resumed, and a damaged line never costs another one.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from minimtp.errors import UserError
from minimtp.files import AppendedFile, FileKind, atomic_write, kind_at, reason_for, set_aside
from minimtp.records import Count, Finite, NonNegative, check_value, lines_of, notice, parse_json
from minimtp.training.evaluation import Evaluation

LOG_NAME = "log.jsonl"
LOG = FileKind("a log", begins=b'{"step":')
LINE_BEGINS = re.compile(rb'(?=\{"step":)')
MAX_LINE_BYTES = 2**20  # a line has some hundred


class LogLine(Struct):
    """One line of either kind."""

    step: Count
    tokens: Count
    losses: list[Finite | None] | None = None
    learning_rate: Finite | None = None
    gradient_norm: Finite | None = None
    seconds: NonNegative | None = None
    evaluation: Evaluation | None = None


class RunLog:
    """The log in `folder`, continued after `step` (0: a new log). Use it in a `with` block.

    evaluated_at: the step of the last evaluation that the checkpoint knows. A later one is dropped,
    because it is repeated. None: there was no evaluation.
    report: called with a line that says how many damaged lines were dropped.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        evaluated_at: int | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.path = folder / LOG_NAME
        damaged = 0
        before = set_aside(self.path, LOG)
        with atomic_write(self.path, LOG) as file:
            for text, line in _lines(before) if step else ():
                damaged += line is None
                last = evaluated_at or 0 if line and line.get("evaluation") else step
                if line is not None and line["step"] <= last:
                    file.write(text + b"\n")
        if damaged:
            lines = "1 line that was" if damaged == 1 else f"{damaged} lines that were"
            (report or notice)(f"{self.path}: left out {lines} damaged")
        self._file = AppendedFile(self.path)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, **values: object) -> None:
        """Append one line. Raises UserError if it cannot be written."""
        try:
            self._file.write(json.dumps(values) + "\n")
        except UserError as error:
            raise UserError(f"{error}, then repeat the command with --resume") from None


class SilentLog:
    """The log of all processes but the first: it writes nothing."""

    def __enter__(self) -> "SilentLog":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, **values: object) -> None:
        pass


def read_log(folder: str | Path) -> list[dict]:
    """Return the lines of the log, or an empty list if there is no log. Damaged lines, such as a
    last line that a crash cut short, are left out.
    """
    return [line for _, line in _lines(Path(folder, LOG_NAME)) if line is not None]


def _lines(path: Path) -> Iterator[tuple[bytes, dict | None]]:
    """Yield each line as text and as a dictionary, None if it is damaged.

    Raises UserError if the file cannot be read.
    """
    if kind_at(path) != "file":
        return
    try:
        for text in lines_of(path, MAX_LINE_BYTES):
            if text is None:
                yield b"", None
                continue
            # There are several pieces if the end of a line is lost.
            for piece in filter(None, LINE_BEGINS.split(text)):
                yield piece, _line(piece, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({reason_for(error)}): move it away to resume without it"
        ) from None


def _line(text: bytes, path: Path) -> dict | None:
    try:
        line = parse_json(text, path, "")
        check_value(line, LogLine, path, "")
    except UserError:
        return None
    return line
