"""The picture of a plan: speed-up by requests at a time, and the two regimes of the roofline."""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.plan.candidates import BOTH, INT4, MTP, STANDARD
from minimtp.plan.planning import Plan
from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_NAME = "plan.png"
COLOURS = {STANDARD: "#7f8c8d", MTP: "#2e86c1", INT4: "#ca6f1e", BOTH: "#1e8449"}
OTHER = ("#7f8c8d", "#1e8449")  # of a measured run: without drafts, with them


def draw_plan(plan: Plan, title: str, folder: Path) -> Path | None:
    """Draw plan.png into the folder. Return None if it cannot be drawn."""
    return save_plot(
        folder / FILE_NAME, lambda figure: draw(figure.subplots(), plan, title), (9, 5)
    )


def draw(axes: "Axes", plan: Plan, title: str) -> None:
    """Draw the speed-ups. Shade the requests at a time at which plain decoding of the first
    configuration is compute-bound, and mark where the others become so.
    """
    top = 1.35 * max(speedup for pairs in plan.speedups.values() for _, speedup in pairs)
    batches = [batch for batch, _ in next(iter(plan.speedups.values()))]
    colours = dict(zip(plan.speedups, OTHER, strict=False)) | COLOURS
    for name, pairs in plan.speedups.items():
        axes.plot(*zip(*pairs, strict=True), color=colours[name], linewidth=2, label=name)
    limits = {p.name: p.value for p in plan.break_even if p.kind == "rows"}
    for name, rows in limits.items():
        if rows < batches[-1]:
            colour = colours[name]
            axes.axvspan(rows, batches[-1], color=colour, alpha=0.08)
            label = f"{name} without drafts is compute-bound from here"
            axes.axvline(rows, color=colour, linestyle=":", linewidth=1.5, label=label)
    if limits:
        memory_bound = min(limits.values()) / batches[0]
        label = "memory-bound without drafts" if memory_bound > 16 else "memory-\nbound"
        axes.text(batches[0], 0.03 * top, label, fontsize=8)
    for point in plan.break_even:
        found = dict(plan.speedups[point.name])
        if point.kind == "batch" and point.value in found and point.value < batches[-1]:
            colour = colours[point.name]
            place = (point.value, found[point.value])
            axes.plot(*place, "o", color=colour)
            label, box = f"{point.value:,}", {"facecolor": "white", "edgecolor": "none", "pad": 1}
            shift = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
            axes.annotate(label, place, color=colour, bbox=box, **shift)
    axes.plot([], [], "o", color="black", label="last number of requests with a gain of 5 %")
    axes.set_xscale("log", base=2)
    ticks = [batch for batch in batches if batch.bit_count() == 1]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlim(batches[0] * 0.95, batches[-1])
    axes.set_ylim(0, top)
    devices = f", {plan.devices} devices a replica" if plan.devices > 1 else ""
    axes.set(
        xlabel="requests at a time" + " on a replica" * (plan.devices > 1),
        ylabel=f"decoding speed-up over {next(iter(plan.speedups))}",
    )
    axes.set_title(f"{title}{devices}", parse_math=False)  # a name may contain $
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=8)
