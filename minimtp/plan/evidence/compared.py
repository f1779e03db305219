"""A predicted beside a measured speed, and tables of them."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from minimtp.bench.table_text import aligned


@dataclass(frozen=True)
class Validated:
    """One configuration at one temperature, in tokens/s.

    by_c, by_kernels, by_roofline: the predictions, None if the file lacks what one needs.
    """

    file: str
    configuration: str
    temperature: float
    measured: float
    by_c: float | None
    by_kernels: float | None
    by_roofline: float | None

    def error(self, way: str) -> float | None:
        predicted = getattr(self, way)
        return None if predicted is None else predicted / self.measured - 1

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


WAYS = {"by_c": "c(T)", "by_kernels": "kernels", "by_roofline": "roofline"}


def summary(rows: Sequence[Validated]) -> list[str]:
    """Return the median and the largest error of each way."""
    lines = []
    for way, name in WAYS.items():
        errors = [abs(e) for row in rows if (e := row.error(way)) is not None]
        if errors:
            above = sum(error > 0.25 for error in errors)
            lines.append(
                f"{name}: {len(errors)} predictions, median error {statistics.median(errors):.0%}, "
                f"largest {max(errors):.0%}, {above} above 25%"
            )
        else:
            lines.append(f"{name}: no predictions, because the files do not hold what it needs")
    return lines


def short_table(rows: Sequence[Validated], markdown: bool = False) -> str:
    """Return a line per file: the median and the largest error of each way."""
    lines = [["file", *(f"{name}: median, largest error" for name in WAYS.values())]]
    for file in dict.fromkeys(row.file for row in rows):
        cells = []
        for way in WAYS:
            found = [row.error(way) for row in rows if row.file == file]
            errors = [abs(error) for error in found if error is not None]
            median = f"{statistics.median(errors):.0%}, {max(errors):.0%}" if errors else ""
            cells.append(median)
        lines.append([file, *cells])
    return aligned(lines, markdown)


def table(rows: Sequence[Validated], markdown: bool = False) -> str:
    """Return a line per file, configuration and temperature."""
    lines = [["file, configuration", "T", "measured", *WAYS.values()]]
    for row in rows:
        cells = [_cell(getattr(row, way), row.error(way)) for way in WAYS]
        name = f"{row.file.removesuffix('.json')}, {row.configuration}"
        lines.append([name, f"{row.temperature:g}", f"{row.measured:,.0f}", *cells])
    return aligned(lines, markdown)


def _cell(predicted: float | None, error: float | None) -> str:
    return "" if predicted is None else f"{predicted:,.0f} ({error:+.0%})"


def in_words(rows: Sequence[Validated]) -> str:
    """Return the table and the summary."""
    return "\n".join([table(rows), "", *summary(rows)])
