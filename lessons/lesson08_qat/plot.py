"""Lesson 8's plot: the derivative for the scale, oscillating weights, training versus rounding."""

from typing import TYPE_CHECKING

from lessons.lesson08_qat.derivatives import HIGH, LOW, lsq_derivative
from lessons.lesson08_qat.finetune import WeightHistory
from minimtp.backend import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2e86c1", "#ca6f1e", "#1e8449", "#c0392b", "#7f8c8d"
COLOURS = {"rtn": GREY, "gptq": "#2c3e50", "QAT": BLUE, "QAT + teacher": GREEN, "QAT + LSQ": ORANGE}


def draw(
    figure: "Figure", history: WeightHistory, found: dict[int, dict[str, float]], exact: float
) -> None:
    """Draw the three parts. found: the loss by bits and method. exact: the float32 baseline."""
    slope, paths, loss = figure.subplots(1, 3)
    levels = np.linspace(LOW - 3, HIGH + 3, 1500)
    codes = np.clip(np.rint(levels), LOW, HIGH)
    slope.plot(levels, codes, color=GREY, linewidth=1, label="step function: its code")
    lsq = lsq_derivative(levels, 1.0)
    slope.plot(levels, lsq, ".", color=RED, markersize=2, label="LSQ: code - weight / scale")
    slope.set(title="derivative for the scale", xlabel="weight / scale", ylabel="derivative")
    slope.legend(fontsize=8, markerscale=5)
    draw_paths(paths, history)
    for name, colour in COLOURS.items():
        style = "o--" if name in ("rtn", "gptq") else "o-"
        values = [losses[name] for losses in found.values()]
        loss.plot(list(found), values, style, color=colour, label=name, markersize=4)
    loss.axhline(exact, color="black", linestyle=":", linewidth=1, label="float32, trained further")
    loss.set(title="loss by method", xlabel="bits per code", ylabel="bits per byte")
    loss.set_xticks(list(found))
    loss.legend(fontsize=8)
    loss.grid(alpha=0.3)


def draw_paths(axes: "Axes", history: WeightHistory) -> None:
    """Show three master weights that oscillate clearly between two levels."""
    masters = np.array(history.masters)  # (steps, weights)
    codes = np.array(history.codes, int)  # (steps, weights)
    from_midpoint = masters - (codes.max(axis=0) + codes.min(axis=0)) / 2
    jumps = (np.diff(codes, axis=0) != 0).sum(axis=0) * (np.ptp(codes, axis=0) == 1)
    both_sides = np.minimum(from_midpoint.max(axis=0), -from_midpoint.min(axis=0))
    clearest = np.argsort(-jumps * both_sides, kind="stable")[:3]
    for weight, colour in zip(clearest, (BLUE, ORANGE, GREEN), strict=True):
        axes.plot(from_midpoint[:, weight], color=colour)
    axes.axhline(0, color="black", linewidth=1)
    for y, level in ((0.95, "upper"), (0.05, "lower")):
        note = f"rounded to the {level} level"
        axes.text(0.03, y, note, transform=axes.transAxes, va="center", fontsize=8)
    axes.set(title="three master weights", xlabel="training step")
    axes.set_ylabel("weight / scale (levels at -0.5 and 0.5)")
    axes.margins(y=0.15)
