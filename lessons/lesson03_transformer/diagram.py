"""Draw block.png, a transformer block: python -m lessons.lesson03_transformer.diagram"""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREEN, ORANGE, GREY = "#d6eaf8", "#d5f5e3", "#fdebd0", "#f2f3f4"
PATH = Path(__file__).parent / "block.png"


def draw(figure: "Figure") -> None:
    """Draw a block on the left, and the attention inside it on the right."""
    block, attention = figure.subplots(1, 2)
    for axes in (block, attention):
        axes.set(xlim=(0, 10), ylim=(0, 10))
        axes.axis("off")
    draw_block(block)
    draw_attention(attention)


def draw_block(axes: "Axes") -> None:
    axes.set_title("one block: x (B, T, D) in, x (B, T, D) out")
    arrow(axes, (2, 0.2), (2, 9.8), "#1e8449", 3)
    axes.text(1.3, 5, "x, the residual stream", rotation=90, ha="center", va="center", fontsize=9)
    for bottom, name, detail, colour in (
        (0.7, "attention", "mixes positions", BLUE),
        (5.2, "feed-forward", "each position alone: SwiGLU", ORANGE),
    ):
        arrow(axes, (2, bottom), (4.2, bottom))
        box(axes, (6.4, bottom), "RMSNorm", GREY)
        arrow(axes, (6.4, bottom + 0.45), (6.4, bottom + 1.1))
        box(axes, (6.4, bottom + 1.75), f"{name}\n{detail}", colour, 1.3)
        arrow(axes, (6.4, bottom + 2.4), (6.4, bottom + 3.3))
        arrow(axes, (6.4, bottom + 3.3), (2.3, bottom + 3.3))
        axes.text(
            2, bottom + 3.3, "+", ha="center", va="center", fontsize=14,
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "black"},
        )  # fmt: skip


def draw_attention(axes: "Axes") -> None:
    axes.set_title("inside attention, for one head")
    box(axes, (5, 0.7), "linear layer", GREY, width=8.4)
    for x, name in ((1.8, "q (T, C)"), (5, "k (T, C)"), (8.2, "v (T, C)")):
        arrow(axes, (x, 1.15), (x, 1.9))
        axes.text(x, 2.2, name, ha="center", va="center", fontsize=9)
    for x in (1.8, 5):
        arrow(axes, (x, 2.5), (x, 3.05))
        box(axes, (x, 3.5), "rotate by position", GREEN, width=2.9)
        arrow(axes, (x, 3.95), (x, 4.6))
    box(axes, (3.4, 5.05), "scores q kᵀ / √C   (T, T)", BLUE, width=6)
    arrow(axes, (3.4, 5.5), (3.4, 6.15))
    box(axes, (3.4, 6.8), "softmax over this and\nearlier positions: P (T, T)", BLUE, 1.3, 6)
    arrow(axes, (3.4, 7.45), (3.4, 8.05))
    axes.plot([8.2, 8.2], [2.5, 8.5], color="black", linewidth=1.2)
    arrow(axes, (8.2, 8.5), (6.4, 8.5))
    box(axes, (3.4, 8.5), "weighted sum P v   (T, C)", BLUE, width=6)
    arrow(axes, (3.4, 8.95), (3.4, 9.8))
    axes.text(3.7, 9.4, "all heads side by side, then a linear layer", fontsize=9, va="center")


def box(
    axes: "Axes",
    centre: tuple[float, float],
    label: str,
    colour: str,
    height: float = 0.9,
    width: float = 4.4,
) -> None:
    """Draw a labelled box."""
    x, y = centre[0] - width / 2, centre[1] - height / 2
    axes.add_patch(rectangle((x, y), width, height, facecolor=colour, edgecolor="black"))
    axes.text(*centre, label, ha="center", va="center", fontsize=9)


def rectangle(corner: tuple[float, float], width: float, height: float, **style: str) -> object:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, **style)


def arrow(
    axes: "Axes",
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str = "black",
    width: float = 1.2,
) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


if __name__ == "__main__":
    save_plot(PATH, draw, (11, 5.2), dpi=90)
