"""The picture of a plan: speed-up against the number of requests, and the roofline's two regimes.
Needs matplotlib (the extra `plots`); everything else works without it.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.plan.planning import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_NAME = "plan.png"
COLOURS = ("#7f8c8d", "#2e86c1", "#ca6f1e", "#1e8449")  # by configuration


def draw_plan(plan: Plan, title: str, folder: Path) -> Path | None:
    """Draw plan.png into the folder. Return None if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    draw(figure.subplots(), plan, title)
    path = folder / FILE_NAME
    figure.savefig(path, dpi=120)
    return path


def draw(axes: "Axes", plan: Plan, title: str) -> None:
    """Draw the speed-ups, and shade the requests at which plain decoding is compute-bound."""
    top = max(speedup for pairs in plan.speedups.values() for _, speedup in pairs)
    batches = [batch for batch, _ in next(iter(plan.speedups.values()))]
    for (name, pairs), colour in zip(plan.speedups.items(), COLOURS, strict=False):
        axes.plot(*zip(*pairs, strict=True), color=colour, linewidth=2, label=name)
    for point in plan.break_even:
        colour = COLOURS[list(plan.speedups).index(point.name)]
        pairs = dict(plan.speedups[point.name])
        if point.kind == "rows" and point.value < batches[-1]:
            axes.axvline(point.value, color=colour, linestyle=":", linewidth=1.2)
            axes.annotate(
                f" {point.name}: compute-bound\n from here without drafts",
                (point.value, 1.16 * top),
                color=colour, fontsize=8, va="top",
            )  # fmt: skip
        if point.kind == "batch" and point.value in pairs and point.value < batches[-1]:
            axes.plot(point.value, pairs[point.value], "o", color=colour)
            axes.annotate(
                f"{point.value:,}", (point.value, pairs[point.value]), (4, 6),
                textcoords="offset points", color=colour, fontsize=9,
            )  # fmt: skip
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    ticks = [2**n for n in range(20) if batches[0] <= 2**n <= batches[-1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_ylim(0, 1.2 * top)
    devices = f"{plan.devices} device{'s' * (plan.devices > 1)} a replica"
    axes.set(
        xlabel="requests at a time on a replica",
        ylabel="decoding speed-up over the first",
        title=f"{title}\n{devices}; dots: the last gain of 5 %",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
