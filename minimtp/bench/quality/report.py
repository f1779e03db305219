"""The table and the picture of `minimtp bench quality`."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from minimtp.machine import other_work

HEADINGS = ("bits", "method", "held-out nats", "loss", "recovered", "bits/weight", "seconds")


def table(rows: Sequence[dict[str, object]], markdown: bool = False) -> str:
    """The rows as text for people, or as a Markdown table."""
    cells = [_cells(row) for row in rows]
    if markdown:
        lines = [HEADINGS, ["---:", "---", *["---:"] * (len(HEADINGS) - 2)], *cells]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    lines = [HEADINGS, *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[1] *= -1  # the method's name stands on the left
    return "\n".join(
        "  ".join(_padded(*pair) for pair in zip(line, widths, strict=True)) for line in lines
    )


def _padded(cell: str, width: int) -> str:
    return cell.rjust(width) if width > 0 else cell.ljust(-width)


def _cells(row: dict[str, object]) -> list[str]:
    control = row["method"] == "fp"
    interval = "" if row["interval"] is None else f" ± {row['interval']:.4f}"
    share = row.get("recovered")
    return [
        str(row["bits"]), row["method"], f"{row['nats']:.4f}", "" if control else f"{row['loss']:+.4f}{interval}",
        "" if share is None or row["method"] == "rtn" else f"{share:.0%}", f"{row['bits_per_weight']:.2f}",
        f"{row['seconds']:.0f}",
    ]  # fmt: skip


def readme(result: dict[str, object]) -> str:
    """What the README shows: the table, and what its figures depend on."""
    machine, seeds = result["machine"], result["seeds"]
    certainty = (
        f"with 95 % intervals over {seeds} seeds"
        if seeds > 1
        else "from a single seed, so without intervals"
    )
    command = f"minimtp bench quality --bits {','.join(map(str, result['bits']))} --seeds {seeds}"
    return "\n".join([
        table(result["rows"], markdown=True),
        "",
        f"One run of `{command}` ({machine['processor']}, {machine['cores']} cores{other_work(machine)}), text fingerprint "
        f"`{result['corpus']['fingerprint'][:16]}`. Every row has seen the same tokens; the loss is against full precision, "
        f"{certainty}; recovered is the share of rtn's loss that is gone.",
    ])  # fmt: skip


def draw(rows: Sequence[dict[str, object]], path: Path) -> Path | None:
    """Loss against bits per weight, a line a method. None where matplotlib (the extra `plots`) is
    not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    methods = dict.fromkeys(row["method"] for row in rows if "recovered" in row)
    for method in methods:
        points = sorted(
            (row for row in rows if row["method"] == method), key=lambda row: row["bits_per_weight"]
        )
        axes.errorbar(
            [row["bits_per_weight"] for row in points], [row["loss"] for row in points],
            [row["interval"] or 0.0 for row in points], fmt="o-", capsize=3, markersize=4, label=method,
        )  # fmt: skip
    axes.axhline(0.0, color="black", linewidth=0.8, label="full precision, same tokens")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set(
        xlabel="bits per weight of the file",
        ylabel="held-out nats lost (95 % over seeds)",
        title="what rounding costs",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return path
