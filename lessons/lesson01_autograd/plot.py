"""Lesson 1's plot: cost and error of finite differences, and the gradient check by operation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(
    figure: "Figure",
    costs: Sequence[tuple[int, float, float]],
    steps: Sequence[float],
    errors: Sequence[float],
    checks: dict[str, float],
) -> None:
    """Draw the three parts.

    costs: (number of parameters, seconds of finite differences, seconds of backpropagation).
    steps, errors: step sizes, and the error of a finite difference for each.
    checks: the largest error of each operation's gradient check.
    """
    cost, accuracy, check = figure.subplots(1, 3)
    numbers, slow, fast = zip(*costs, strict=True)
    cost.loglog(numbers, slow, "o-", color="#ca6f1e", label="central differences")
    cost.loglog(numbers, fast, "o-", color="#1e8449", label="backpropagation")
    cost.set(title="time for one gradient", xlabel="number of parameters", ylabel="seconds")
    cost.legend()

    rounding = [1e-16 / h for h in steps]
    truncation = [h * h * errors[0] / steps[0] ** 2 for h in steps]
    accuracy.loglog(steps, errors, "o-", color="#ca6f1e")
    accuracy.loglog(steps, rounding, ":", color="grey", label="rounding: 1e-16 / h")
    accuracy.loglog(steps, truncation, "--", color="grey", label="proportional to h²")
    accuracy.set_ylim(min(errors) / 10, max(errors) * 10)
    accuracy.legend(fontsize=8)
    accuracy.set(
        title="error of a central difference", xlabel="step h", ylabel="error of one derivative"
    )

    names = list(checks)
    shown = [max(error, 1e-13) for error in checks.values()]
    colours = ["#c0392b" if error > 1e-6 else "#2e86c1" for error in checks.values()]
    check.hlines(range(len(names)), 1e-13, shown, color=colours, linewidth=1)
    check.scatter(shown, range(len(names)), color=colours, zorder=3)
    check.axvline(1e-6, color="grey", linestyle=":")
    check.set_xscale("log")
    check.set_yticks(range(len(names)), names, fontsize=8)
    check.set(title="gradient check by operation", xlabel="largest error (dotted: tolerance)")
    for axes in (cost, accuracy, check):
        axes.grid(alpha=0.3)
