"""The log of a run, log.jsonl: one JSON object per line, of two kinds.

    {"step": 12, "tokens": 24576, "losses": [2.31, 2.9], "learning_rate": 0.004,
     "gradient_norm": 0.8, "seconds": 1.9}
    {"step": 100, "tokens": 204800, "evaluation": {"bits_per_byte": 2.4, ...}}

step: steps taken so far. losses: nats per token, for the next token and for each further depth
(null for a head that this step did not train). seconds: training time over all sessions.

Each line is written immediately. A resumed run first drops the lines after its checkpoint, so the
log holds each step once.
"""

import json
from pathlib import Path

from minimtp.errors import UserError
from minimtp.files import reason_for, write_text

LOG_NAME = "log.jsonl"


class RunLog:
    """The log in `folder`, continued after `step` (0: a new log). Use it in a `with` block."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOG_NAME
        kept = [line for line in read_log(folder) if line["step"] <= step] if step else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, **values: object) -> None:
        """Append one line. Raises UserError if it cannot be written."""
        try:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({reason_for(error)}): "
                "free disk space, then add --resume"
            ) from None


class SilentLog:
    """The log of all processes but the first: it writes nothing."""

    def __enter__(self) -> "SilentLog":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, **values: object) -> None:
        pass


def read_log(folder: str | Path) -> list[dict]:
    """Return the lines of the log, or an empty list if there is no log.

    The last line is left out if a crash cut it short.
    """
    path = Path(folder, LOG_NAME)
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
