"""The plot of `minimtp bench kernels`: weights per second, c(T), and the roofline.

The roofline shows the limit of each product. On the slope the limit is memory bandwidth times
operations per byte. On the flat part it is the speed of arithmetic, measured as NumPy's product of
large matrices. A product of small integers may exceed it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.bench.kernels.report import on_gpu
from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#1e8449", "#2e86c1", "#ca6f1e", "#7f8c8d", "#8e44ad", "#c0392b", "#d4ac0d")
WITH_MEMORY_LIMIT = ("q4_0", "q8_0", "f16", "f32")


def draw(result: Mapping[str, object], path: Path) -> Path | None:
    """Save the plot and return its path, or return None if it cannot be drawn."""
    return save_plot(path, lambda figure: _draw(figure, result), (15, 4.8))


def _draw(figure: "Figure", result: Mapping[str, object]) -> None:
    products = result["products"]
    where = result["machine"]["processor"] if on_gpu(result) else "one thread"
    speed, rows_axes, roofline = figure.subplots(1, 3)
    for format_, color in zip(dict.fromkeys(p["format"] for p in products), COLORS, strict=False):
        own = [p for p in products if p["format"] == format_]
        label = "NumPy, float32" if format_ == "numpy" else format_
        style = {"color": color, "label": label}
        weights = [p["outputs"] * p["inputs"] for p in own]
        speed.plot(weights, [p["gweights_per_second"] for p in own], "o-", **style)
        if format_ in WITH_MEMORY_LIMIT:
            limits = [p["gweights_per_second"] / p["share_of_read"] for p in own]
            speed.plot(weights, limits, ":", color=color, label=f"memory limit, {format_}")
        rows = [int(r) for r in own[-1]["c"]]
        rows_axes.plot(rows, list(own[-1]["c"].values()), "o-", **style)
        roofline.plot(*_operations(own[-1]), "o-", **style)
    last = products[-1]
    size = f"{last['outputs']} x {last['inputs']}"
    _draw_roof(roofline, last["read_gigabytes_per_second"], result["sgemm_gflops"])
    speed.set(
        xscale="log", yscale="log", xlabel="weights of the matrix",
        ylabel=f"Gweight/s, one row, {where}", title="weights per second for one token",
    )  # fmt: skip
    rows_axes.set(
        xlabel="rows T", ylabel="c(T): time of T rows / time of one row", ylim=(0, 16),
        title=f"cost of verification, {size}",
    )  # fmt: skip
    roofline.set(
        xscale="log", yscale="log", xlabel="operations per byte of weights (1 to 16 rows)",
        ylabel=f"Gop/s, {where}", title=f"roofline, {size}",
    )  # fmt: skip
    for axes in (speed, rows_axes, roofline):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def _draw_roof(axes: "Axes", read: float, peak: float) -> None:
    intensities = [0.25, peak / read, 128]
    label = f"memory {read:.0f} GB/s, matrix product {peak:.0f} GFLOP/s"
    roof = [min(peak, read * x) for x in intensities]
    axes.plot(intensities, roof, "k--", linewidth=0.8, label=label)


def _operations(product: Mapping[str, object]) -> tuple[list[float], list[float]]:
    """(operations per byte of weights, 1e9 operations per second) by number of rows.

    Each weight and row costs two operations.
    """
    weights = product["outputs"] * product["inputs"]
    operations = [2 * weights * int(rows) for rows in product["microseconds"]]
    times = product["microseconds"].values()
    per_byte = [count / product["bytes"] for count in operations]
    per_second = [count / (1e3 * t) for count, t in zip(operations, times, strict=True)]
    return per_byte, per_second
