"""The table and the plot of `minimtp bench quality`.

Bits per weight are computed from the size of the file, including scales, the token table and norms.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.bench.table_text import aligned
from minimtp.machine import other_work
from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = ["bits", "method", "held-out nats", "loss", "recovered", "bits/weight", "seconds"]
Row = Mapping[str, object]


def table(rows: Sequence[Row], markdown: bool = False) -> str:
    """Return the rows as aligned text or as a Markdown table."""
    return aligned([HEADINGS, *map(_cells, rows)], markdown, names=2)


def _cells(row: Row) -> list[str]:
    control = row["method"] == "fp"
    interval = "" if row["interval"] is None else f" ± {row['interval']:.4f}"
    share = row.get("recovered")
    return [
        str(row["bits"]),
        row["method"],
        f"{row['nats']:.4f}",
        "" if control else f"{row['loss']:+.4f}{interval}",
        "" if share is None or row["method"] == "rtn" else f"{share:.0%}",
        f"{row['bits_per_weight']:.2f}",
        f"{row['seconds']:.0f}",
    ]


def readme(result: Mapping[str, object]) -> str:
    """Return the Markdown table and the conditions of the measurement."""
    machine, seeds = result["machine"], result["seeds"]
    certainty = "from a single seed, so without intervals"
    if seeds > 1:
        certainty = f"with 95 % intervals over {seeds} seeds"
    command = f"minimtp bench quality --bits {','.join(map(str, result['bits']))} --seeds {seeds}"
    return (
        f"{table(result['rows'], markdown=True)}\n\n"
        f"One run of `{command}` ({machine['processor']}, {machine['cores']} cores"
        f"{other_work(machine)}), corpus fingerprint `{result['corpus']['fingerprint'][:16]}`. "
        f'All models were trained on the same tokens. "loss" is relative to full precision, '
        f"{certainty}. "
        '"recovered" is the share of the loss of rtn (rounding to nearest) that a method avoids.'
    )


def draw(result: Mapping[str, object], path: Path) -> Path | None:
    """Plot the loss against bits per weight, a line per method; return the path.

    Returns None if it cannot be drawn.
    """
    return save_plot(path, lambda figure: _draw(figure, result["rows"]), (8, 5))


def _draw(figure: "Figure", rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    for method in dict.fromkeys(row["method"] for row in rows if "recovered" in row):
        points = [row for row in rows if row["method"] == method]
        points.sort(key=lambda row: row["bits_per_weight"])
        axes.errorbar(
            [row["bits_per_weight"] for row in points],
            [row["loss"] for row in points],
            [row["interval"] or 0.0 for row in points],
            fmt="o-",
            capsize=3,
            markersize=4,
            label=method,
        )
    axes.axhline(0.0, color="black", linewidth=0.8, label="full precision, same tokens")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set(xlabel="bits per weight of the file", title="quality lost to quantization")
    axes.set(ylabel="held-out loss in nats (95 % interval over seeds)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
