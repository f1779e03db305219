"""Lesson 1's picture: what differences cost, how wrong they are, and every operation's check."""

from collections.abc import Sequence


def draw(
    figure: object,
    costs: Sequence[tuple],
    steps: Sequence[float],
    errors: Sequence[float],
    checks: dict,
) -> None:
    cost, accuracy, check = figure.subplots(1, 3)
    numbers, slow, fast = zip(*costs, strict=True)
    cost.loglog(numbers, slow, "o-", color="#ca6f1e", label="differences")
    cost.loglog(numbers, fast, "o-", color="#1e8449", label="backward")
    cost.set(title="one gradient", xlabel="numbers to differentiate by", ylabel="seconds")
    cost.legend()

    accuracy.loglog(steps, errors, "o-", color="#ca6f1e")
    accuracy.loglog(
        steps, [1e-16 / h for h in steps], ":", color="grey", label="rounding, 1e-16 / h"
    )
    accuracy.loglog(
        steps,
        [h * h * errors[0] / steps[0] ** 2 for h in steps],
        "--",
        color="grey",
        label="curvature, h²",
    )
    accuracy.set_ylim(min(errors) / 10, max(errors) * 10)
    accuracy.legend(fontsize=8)
    accuracy.set(
        title="a central difference's error", xlabel="step h", ylabel="error of one derivative"
    )

    names = list(checks)
    colours = ["#c0392b" if error > 1e-6 else "#2e86c1" for error in checks.values()]
    check.hlines(
        range(len(names)),
        1e-13,
        [max(e, 1e-13) for e in checks.values()],
        color=colours,
        linewidth=1,
    )
    check.scatter(
        [max(e, 1e-13) for e in checks.values()], range(len(names)), color=colours, zorder=3
    )
    check.axvline(1e-6, color="grey", linestyle=":")
    check.set_xscale("log")
    check.set_yticks(range(len(names)), names, fontsize=8)
    check.set(title="gradient check, every operation", xlabel="largest error (dotted: tolerance)")
    for axes in (cost, accuracy, check):
        axes.grid(alpha=0.3)
