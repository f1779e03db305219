"""Draw round.png, one round as a timeline: python -m lessons.lesson06_speculative.diagram"""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREEN, RED, BLUE, ORANGE, GREY = "#1e8449", "#c0392b", "#2e86c1", "#fdebd0", "#d6eaf8"
PATH = Path(__file__).parent / "round.png"
DRAFTS, ACCEPTED, CORRECTED = "set", 2, "l"  # the round in the text
C, R = 1.31, 0.55  # of three drafts at temperature 0, as the text quotes them from the run
HEIGHT = 0.8


def draw(figure: "Figure") -> None:
    """Draw a round of three drafts above plain decoding of the same bytes, on one time axis."""
    axes = figure.subplots()
    axes.set(xlim=(-0.75, 3.6), ylim=(-0.8, 3.5), xlabel="time, in passes of plain decoding")
    axes.set_xticks(range(4))
    axes.set_yticks([])
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    draw_round(axes, 2.3)
    draw_plain(axes, -0.5)


def draw_round(axes: "Axes", y: float) -> None:
    lane(axes, y, "one round")
    box(axes, 0, y, R, " ".join(DRAFTS), ORANGE)
    note(axes, R / 2, y + HEIGHT + 0.15, "draft 1, 2, 3")
    box(axes, R, y, C, f"one pass over ( {' '.join(DRAFTS)}", GREY)
    note(axes, R + C / 2, y + HEIGHT + 0.15, "verify")
    axes.plot([R + C] * 2, [y, y - 1], ":", color="black")
    for i, byte in enumerate(DRAFTS):
        x, accepted = R + C - 0.33 * (len(DRAFTS) - i) + 0.1, i < ACCEPTED
        style = {"color": GREEN if accepted else RED}
        axes.text(
            x, y - 0.4, byte, ha="center", va="center", fontsize=13, family="monospace", **style
        )
        note(axes, x, y - 0.95, "accept" if accepted else "reject", **style)
    arrow = {"arrowstyle": "->", "color": BLUE}
    axes.annotate("", (R + C + 0.15, y - 0.4), (R + C - 0.17, y - 0.4), arrowprops=arrow)
    committed(axes, R + C + 0.23, y - 0.4, CORRECTED)
    note(axes, R + C + 0.36, y - 0.5, "the model's own byte instead", ha="left", color=BLUE)


def draw_plain(axes: "Axes", y: float) -> None:
    lane(axes, y, "plain\ndecoding")
    fed = "(" + DRAFTS[:ACCEPTED]
    for i, (before, byte) in enumerate(zip(fed, DRAFTS[:ACCEPTED] + CORRECTED, strict=True)):
        box(axes, i, y, 1, f"one pass over {before}", GREY)
        committed(axes, i + 1, y + HEIGHT + 0.3, byte)


def lane(axes: "Axes", y: float, name: str) -> None:
    axes.text(-0.08, y + HEIGHT / 2, name, ha="right", va="center", fontsize=11)


def box(axes: "Axes", x: float, y: float, width: float, text: str, colour: str) -> None:
    axes.bar(x, HEIGHT, width, y, align="edge", facecolor=colour, edgecolor="black")
    axes.text(
        x + width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=10,
        family="monospace",
    )  # fmt: skip


def note(axes: "Axes", x: float, y: float, text: str, **style: object) -> None:
    axes.text(x, y, text, **({"fontsize": 9, "ha": "center"} | style))


def committed(axes: "Axes", x: float, y: float, byte: str) -> None:
    """Write a byte of the model's own choice, in a box."""
    axes.text(
        x, y, byte, color=BLUE, ha="center", va="center", fontsize=13, family="monospace",
        bbox={"facecolor": "#d6eaf8", "edgecolor": BLUE, "boxstyle": "square,pad=0.2"},
    )  # fmt: skip


if __name__ == "__main__":
    print(save_plot(PATH, draw, (11, 3.6), dpi=90))
