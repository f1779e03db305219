"""Lesson 9's plot: the speed of each variant and of reading, the cost of rows, memory layouts."""

from typing import TYPE_CHECKING

from lessons.lesson09_int4.variants import (
    DEQUANTIZED,
    FLOAT,
    INTEGERS,
    KERNEL,
    LOOP,
    PANELS,
    ROW_BY_ROW,
    ROWS,
)
from minimtp.backend import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    FLOAT: "#7f8c8d",
    DEQUANTIZED: "#c0392b",
    LOOP: "#ca6f1e",
    PANELS: "#8e44ad",
    INTEGERS: "#2e86c1",
    KERNEL: "#1e8449",
    ROW_BY_ROW: "black",
}
OUTPUTS, INPUTS = 64, 64  # size of the matrix whose layouts are shown
Speeds = dict[str, dict[str, float]]  # Gweight/s by size and variant


def draw(figure: "Figure", speeds: Speeds, limits: Speeds, costs: dict[str, list[float]]) -> None:
    """Draw the four parts. limits: the speed of reading. costs: c(T) by variant."""
    bars, rows, file, panels = figure.subplots(1, 4, width_ratios=(2.2, 1.3, 1, 1))
    draw_speeds(bars, speeds, limits)
    for name, cost in costs.items():
        rows.plot(ROWS, cost, "o-", color=COLOURS[name], label=name, markersize=4)
    rows.set(title="time for T rows / time for one", xlabel="rows T")
    rows.set(ylim=(0, max(ROWS)), xticks=ROWS)
    rows.legend(fontsize=9)
    for axes in (bars, rows):
        axes.grid(alpha=0.3)
    for axes, order, title in ((file, in_a_file(), "file"), (panels, in_panels(), "panels")):
        axes.imshow(order, cmap="viridis", interpolation="nearest")
        axes.set(title=f"{title} (dark is read first)", xlabel="input", ylabel="output")
        axes.set(xticks=(0, 32), yticks=(0, 32))


def draw_speeds(axes: "Axes", speeds: Speeds, limits: Speeds) -> None:
    """Show speeds as points: bars on a logarithmic axis would have no meaningful length."""
    names = list(next(iter(speeds.values())))
    for i, name in enumerate(names):
        places = [at + (i - (len(names) - 1) / 2) * 0.14 for at in range(len(speeds))]
        values = [speed[name] for speed in speeds.values()]
        axes.plot(places, values, "o", color=COLOURS[name], label=name)
    for name in (FLOAT, KERNEL):
        for at, limit in enumerate(limits.values()):
            label = None if at else f"read {name.partition(',')[0]} weights"
            ends, heights = [at - 0.45, at + 0.45], [limit[name]] * 2
            axes.plot(ends, heights, ":", color=COLOURS[name], label=label)
    axes.set(
        yscale="log", title="speed with one row", ylabel="Gweight/s", xticks=range(len(speeds))
    )
    axes.set_xticklabels(speeds)
    axes.set_ylim(top=30 * max(max(limit.values()) for limit in limits.values()))
    axes.legend(fontsize=9, ncols=2, loc="upper left")


def in_a_file() -> np.ndarray:
    """Return the position of each weight's byte in Q4_0 blocks, (OUTPUTS, INPUTS)."""
    n, k = np.indices((OUTPUTS, INPUTS))
    return (n * (INPUTS // 32) + k // 32) * 18 + 2 + k % 16


def in_panels() -> np.ndarray:
    """Return the same for panels of 32 outputs, each with the order group, byte, output."""
    n, k = np.indices((OUTPUTS, INPUTS))
    group = (n // 32) * (INPUTS // 32) + k // 32
    return (group * 16 + k % 16) * 32 + n % 32
