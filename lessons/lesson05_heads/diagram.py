"""Draw heads.png, what each head reads and predicts: python -m lessons.lesson05_heads.diagram"""

from pathlib import Path
from typing import TYPE_CHECKING

from lessons.lesson03_transformer.diagram import BLUE, GREEN, GREY, ORANGE, arrow, box
from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, POSITION, DEPTH = "def main", 3, 3  # the example of the lesson's text
PATH = Path(__file__).parent / "heads.png"
TOKENS, MODEL, PREDICTIONS = 0.0, 2.4, 4.8  # heights of the rows
SKY = "#2e86c1"


def draw(figure: "Figure") -> None:
    """Draw the heads that read the tokens in between on the left, and parallel heads on the
    right.
    """
    conditioned, parallel = figure.subplots(1, 2)
    for axes in (conditioned, parallel):
        axes.set(xlim=(-0.6, len(TEXT) - 0.1), ylim=(-1.5, 5.6))
        axes.axis("off")
        draw_trunk(axes)
    conditioned.set_title("sequential and token-conditioned heads")
    draw_chain(conditioned)
    parallel.set_title("parallel heads")
    draw_parallel(parallel)


def draw_trunk(axes: "Axes") -> None:
    """Draw the tokens of the text, the trunk above those it has read, and all predictions."""
    for i, token in enumerate(TEXT):
        letter = token.replace(" ", "␣")
        box(axes, (i, TOKENS), letter, GREEN if i <= POSITION else GREY, 0.7, 0.7)
        axes.text(i, TOKENS - 0.55, str(i), ha="center", va="center", fontsize=9)
        if i <= POSITION:
            arrow(axes, (i, TOKENS + 0.35), (i, MODEL - 0.5))
    axes.text(POSITION / 2, -1.2, "already read", ha="center", fontsize=10)
    axes.text(POSITION + (1 + DEPTH) / 2 + 0.5, -1.2, "still to come", ha="center", fontsize=10)
    box(axes, (POSITION / 2, MODEL), "trunk", BLUE, 1, POSITION + 0.7)
    for k in range(1 + DEPTH):
        column, target = POSITION + k, POSITION + 1 + k
        if k:
            box(axes, (column, MODEL), f"head\n{k}", ORANGE, 1, 0.7)
        arrow(axes, (column, MODEL + 0.5), (column, PREDICTIONS - 0.35))
        box(axes, (column, PREDICTIONS), TEXT[target], "white", 0.7, 0.7)
        axes.text(column, PREDICTIONS + 0.55, str(target), ha="center", va="center", fontsize=9)
    axes.text(POSITION - 0.55, PREDICTIONS, "predictions", ha="right", va="center", fontsize=10)
    axes.text(POSITION - 0.1, MODEL + 0.85, "$h_3$", ha="right", va="center", fontsize=10)


def draw_chain(axes: "Axes") -> None:
    """Draw the states that pass from head to head, and the tokens that the heads read."""
    for k in range(1, DEPTH + 1):
        column = POSITION + k
        arrow(axes, (column - 0.65, MODEL), (column - 0.35, MODEL), width=2)
        arrow(axes, (column, TOKENS + 0.35), (column, MODEL - 0.5))
        # When drafting, the token is the prediction of the one before.
        start, end = (column - 0.8, PREDICTIONS - 0.35), (column - 0.3, TOKENS + 0.35)
        style = {"arrowstyle": "-|>", "color": SKY, "linestyle": "--", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=style)
    axes.text(
        POSITION - 0.55, PREDICTIONS - 0.95, "dashed: read\nwhen drafting", ha="right", va="center",
        color=SKY, fontsize=10,
    )  # fmt: skip


def draw_parallel(axes: "Axes") -> None:
    """Draw the trunk's state, which every head reads."""
    height = MODEL - 0.9
    start = POSITION + 0.25
    axes.plot([start, start], [MODEL - 0.5, height], color="black", linewidth=2)
    axes.plot([start, POSITION + DEPTH], [height, height], color="black", linewidth=2)
    for k in range(1, DEPTH + 1):
        arrow(axes, (POSITION + k, height), (POSITION + k, MODEL - 0.5), width=2)
    axes.text(POSITION + 2, height - 0.35, "$h_3$ for every head", ha="center", fontsize=10)


if __name__ == "__main__":
    save_plot(PATH, draw, (11, 4.6), dpi=90)
