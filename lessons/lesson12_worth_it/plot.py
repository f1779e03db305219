"""Lesson 12's plot: the roofline of this machine, and speed-ups by requests at a time."""

from typing import TYPE_CHECKING

from lessons.lesson12_worth_it.core import ROWS, Product
from minimtp.plan import plot
from minimtp.plan.planning import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"float32": "#7f8c8d", "int4": "#1e8449"}


def draw(figure: "Figure", products: dict[str, Product], plans: dict[str, Plan]) -> None:
    """Draw the times of products, and the speed-ups of each plan."""
    roofline, *others = figure.subplots(1, 1 + len(plans), width_ratios=(1, *[1.25] * len(plans)))
    draw_roofline(roofline, products)
    for axes, (title, plan) in zip(others, plans.items(), strict=True):
        plot.draw(axes, plan, title)


def draw_roofline(axes: "Axes", products: dict[str, Product]) -> None:
    for name, product in products.items():
        predicted = [1e3 * product.predicted(rows) for rows in ROWS]
        axes.plot(ROWS, predicted, color=COLOURS[name], label=f"{name}, predicted")
        measured = [1e3 * product.seconds[rows] for rows in ROWS]
        axes.plot(ROWS, measured, "o", color=COLOURS[name], label=f"{name}, measured")
        label = f"{name}, balance"
        axes.axvline(product.balance, color=COLOURS[name], linestyle=":", linewidth=1, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ROWS, map(str, ROWS))
    axes.set(title="one product on this machine", xlabel="rows T", ylabel="ms")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
