"""The run's log: one JSON object a line in log.jsonl, of two kinds.

    {"step": 12, "tokens": 24576, "losses": [2.31, 2.9], "learning_rate": 0.004, "gradient_norm": 0.8, "seconds": 1.9}
    {"step": 100, "tokens": 204800, "evaluation": {"bits_per_byte": 2.4, ...}}

step: steps taken so far. losses: nats per token for the next token and each extra depth (null for a head not trained in
that step). seconds: spent training, over all sessions.

A line is written at once. A resumed run first drops the lines after its checkpoint, so that no step stands there twice.
"""

import json
from pathlib import Path

from minimtp.errors import UserError
from minimtp.files import write_text
from minimtp.training.checkpoint import LOG_NAME


class RunLog:
    """The log in `folder`, continued after `step` (0: begun anew). Use it in a `with` block."""

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
        """Append one line. Raises UserError when the disk is full."""
        try:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): make room, then --resume"
            ) from None


class SilentLog:
    """What the other processes of a run have for a log: nothing is written."""

    def __enter__(self) -> "SilentLog":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, **values: object) -> None:
        pass


def read_log(folder: str | Path) -> list[dict]:
    """The log's lines; none if there is no log. A last line that a crash cut short is left out."""
    path = Path(folder, LOG_NAME)
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
