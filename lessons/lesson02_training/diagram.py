"""Draw model.png, the window model and the schedule: python -m lessons.lesson02_training.diagram"""

from pathlib import Path
from typing import TYPE_CHECKING

from lessons.lesson02_training.recipe import recipe
from minimtp.plots import save_plot
from minimtp.training.schedule import decay_start, learning_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATH = Path(__file__).parent / "model.png"
SIZE = (11, 4.2)
BLUE, GREEN, ORANGE, GREY = "#d6eaf8", "#d5f5e3", "#fdebd0", "#f2f3f4"
WINDOW = "↵def·mai"
ARROW = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}


def draw(figure: "Figure") -> None:
    """Draw the model on the left, and the learning rate of each step on the right."""
    model, schedule = figure.subplots(1, 2, width_ratios=(1.25, 1))
    draw_model(model)
    draw_schedule(schedule)


def draw_model(axes: "Axes") -> None:
    axes.set(title="one prediction", xlim=(0, 10.6), ylim=(0, 9.6))
    axes.axis("off")
    for i, byte in enumerate(WINDOW):
        x = 0.6 + 1.0 * i
        axes.text(x, 0.3, byte, ha="center", va="center", fontsize=12, family="monospace")
        axes.annotate("", (x, 1.5), (x, 0.7), arrowprops=ARROW)
        box(axes, (x, 2.0), "32", GREEN, 0.8)
    axes.text(8.3, 0.3, "8 bytes", va="center", fontsize=9)
    axes.text(8.3, 2.0, "their vectors,\nfrom a table", va="center", fontsize=9)
    for y, label, side, colour in (
        (3.7, "256 numbers", "concatenated", GREEN),
        (5.4, "256 hidden units", "linear layer, SiLU", ORANGE),
        (7.1, "257 logits", "linear layer", BLUE),
        (8.8, "257 probabilities, for example p(n) = 0.81", "softmax", BLUE),
    ):
        axes.annotate("", (4.1, y - 0.5), (4.1, y - 1.2), arrowprops=ARROW)
        box(axes, (4.1, y), label, colour, 7.8)
        axes.text(8.3, y, side, va="center", fontsize=9)


def box(axes: "Axes", centre: tuple[float, float], label: str, colour: str, width: float) -> None:
    from matplotlib.patches import Rectangle

    corner = centre[0] - width / 2, centre[1] - 0.5
    axes.add_patch(Rectangle(corner, width, 1.0, facecolor=colour, edgecolor="black"))
    axes.text(*centre, label, ha="center", va="center", fontsize=9)


def draw_schedule(axes: "Axes") -> None:
    steps, peak = recipe.steps, recipe.learning_rate
    warmup, start = round(recipe.warmup_fraction * steps), decay_start(recipe)
    axes.plot([learning_rate(recipe, step) for step in range(steps)], color="#1e8449", linewidth=2)
    for step, label in ((warmup, f"W = {warmup}"), (start, f"S - D = {start}")):
        axes.axvline(step, color="grey", linestyle=":")
        axes.text(step + 20, 1.04 * peak, label, fontsize=9)
    axes.text(steps - 20, 1.04 * peak, f"S = {steps}", fontsize=9, ha="right")
    axes.axvline(steps, color="grey", linestyle=":")
    axes.set(title="the schedule", xlabel="step", ylabel="learning rate", ylim=(0, 1.1 * peak))
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    save_plot(PATH, draw, SIZE, dpi=90)
