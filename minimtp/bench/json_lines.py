"""Results: a file of JSON that people can read and version control can compare, and a table."""

import json
from collections.abc import Callable
from pathlib import Path

from minimtp.files import FileKind, write_text


def result_file(measurement: str) -> FileKind:
    """Return the kind of the files that hold the results of this measurement."""
    return FileKind(
        f"a result of bench {measurement}", begins=f'{{"measurement": "{measurement}"'.encode()
    )


def json_lines(result: dict[str, object]) -> str:
    """Return the result with five significant digits per number and one line per "rows" entry."""
    text = json.dumps(_rounded(result | {"rows": []}), indent=2)
    rows = ",\n    ".join(json.dumps(_rounded(row)) for row in result["rows"])
    return text.replace('"rows": []', f'"rows": [\n    {rows}\n  ]', 1) + "\n"


def indented(result: dict[str, object]) -> str:
    """Return the result with all digits of its numbers."""
    return json.dumps(result, indent=2) + "\n"


def hand_over(
    result: dict[str, object],
    table: Callable[[dict[str, object]], str],
    out: str | Path | None,
    kind: FileKind,
    report: Callable[[str], None],
    *,
    encode: Callable[[dict[str, object]], str] = json_lines,
    draw: Callable[[dict[str, object], Path], Path | None] = lambda result, path: None,
) -> None:
    """Write the result to the file `out`, if there is one, and its plot next to it. Report its
    table.

    The file is written first: it is there even if the table cannot be printed. draw: draws a plot
    to a path, and returns None if it cannot. Raises UserError if the file cannot be written.
    """
    if out is not None:
        write_text(out, encode(result), kind)
    report(table(result))
    if out is not None:
        plot = draw(result, Path(out).with_suffix(".png"))
        report(f"saved {out}" + (f" and {plot}" if plot else ""))


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    return [_rounded(member) for member in value] if isinstance(value, list) else value
