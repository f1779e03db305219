"""Lesson 8's plot: the staircase, the derivative for the scale, oscillating weights, the losses."""

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
    """Draw the four parts. found: the loss by bits and method. exact: the float32 baseline."""
    (staircase, slope), (paths, loss) = figure.subplots(2, 2)
    draw_staircase(staircase)
    draw_slope(slope)
    draw_paths(paths, history)
    for name, colour in COLOURS.items():
        style = "o--" if name in ("rtn", "gptq") else "o-"
        values = [losses[name] - exact for losses in found.values()]
        loss.plot(list(found), values, style, color=colour, label=name, markersize=4)
    loss.axhline(0, color="black", linestyle=":", linewidth=1, label="float32, trained further")
    loss.set(title="loss by method", xlabel="bits per code")
    loss.set_ylabel("bits per byte above float32,\ntrained further")
    loss.set_xticks(list(found))
    loss.legend(fontsize=9)
    loss.grid(alpha=0.3)


def draw_staircase(axes: "Axes", at: float = 0.8) -> None:
    """Show rounding to the levels -2 .. 1, and its surrogate with slope 1 for one weight."""
    w = np.linspace(-3, 2, 1000)
    axes.plot(w, np.clip(np.rint(w), -2, 1), color=GREY, linewidth=2, label="rounded weight Q(w)")
    for here, colour in ((-0.7, BLUE), (at, RED)):
        error = np.clip(np.rint(here), -2, 1) - here
        near = np.array([-0.8, 0.8]) + here
        axes.plot(near, near + error, color=colour, linestyle="--")
        axes.plot([here], [here + error], "o", color=colour, markersize=7)
        label = f"surrogate w {'+' if error > 0 else '-'} {abs(error):.1f} at w = {here}"
        axes.plot([], [], "o--", color=colour, label=label)
    axes.set(title="a staircase and its surrogate of slope 1", xlabel="weight / scale")
    axes.set(ylabel="rounded weight / scale", yticks=range(-2, 3))
    axes.legend(fontsize=9)
    axes.grid(alpha=0.3)


def draw_slope(axes: "Axes") -> None:
    """Show the derivative of a rounded weight with respect to its scale, of both functions."""
    levels = np.linspace(LOW - 3, HIGH + 3, 1500)
    codes = np.clip(np.rint(levels), LOW, HIGH)
    axes.plot(levels, codes, color=GREY, linewidth=1, label="step function: its code")
    lsq = lsq_derivative(levels, 1.0)
    axes.plot(levels, lsq, ".", color=RED, markersize=2, label="LSQ: code - weight / scale")
    axes.set(title="derivative for the scale", xlabel="weight / scale", ylabel="derivative")
    axes.legend(fontsize=9, markerscale=5)


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
        axes.text(0.03, y, note, transform=axes.transAxes, va="center", fontsize=9)
    axes.set(title="three master weights", xlabel="training step")
    axes.set_ylabel("weight / scale (levels at -0.5 and 0.5)")
    axes.margins(y=0.15)
