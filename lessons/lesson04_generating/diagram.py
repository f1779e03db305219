"""Draw cache.png, rows with and without a cache: python -m lessons.lesson04_generating.diagram"""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATH = Path(__file__).parent / "cache.png"
SIZE = (11, 3.6)
PROMPT, TEXT = "def ", "def self"
NEW, AGAIN, CACHED = "#58b368", "#f5b041", "#d6eaf8"


def draw(figure: "Figure") -> None:
    """Draw the same steps without a cache (left) and with one (right)."""
    without, cached = figure.subplots(1, 2)
    for axes, title, old in ((without, "without a cache", AGAIN), (cached, "with a cache", CACHED)):
        axes.set(title=title, xlim=(-2.2, len(TEXT) + 3.4), ylim=(5.2, -0.7))
        axes.axis("off")
        axes.text(len(TEXT) + 1.7, -0.45, COUNTS[axes is cached], ha="center", fontsize=9)
        for step in range(len(TEXT) - len(PROMPT)):
            draw_step(axes, step, old, axes is cached)
    legend(without, ((AGAIN, "computed again"), (NEW, "computed, new")))
    legend(cached, ((CACHED, "read from the cache"), (NEW, "computed, new")))


COUNTS = ("rows computed", "rows in the cache\nafter the step")


def draw_step(axes: "Axes", step: int, old: str, cached: bool) -> None:
    """Draw the tokens of the text at one step. The last one is chosen in this step."""
    seen = len(PROMPT) + step
    first_new = seen - 1 if step else 0
    name = "prompt" if step == 0 else f"step {step}"
    axes.text(-0.3, step + 0.5, name, ha="right", va="center", fontsize=9)
    for place in range(seen):
        cell(axes, place, step, NEW if place >= first_new else old)
    cell(axes, seen, step, "white", "--")
    count = seen if cached or not step else f"{seen}, new: 1"
    axes.text(len(TEXT) + 1.7, step + 0.5, str(count), ha="center", va="center", fontsize=10)


def cell(axes: "Axes", place: int, step: int, colour: str, line: str = "-") -> None:
    from matplotlib.patches import Rectangle

    style = {"facecolor": colour, "edgecolor": "black", "linestyle": line}
    axes.add_patch(Rectangle((place + 0.05, step + 0.08), 0.9, 0.84, **style))
    letter = TEXT[place].replace(" ", "·")
    axes.text(place + 0.5, step + 0.5, letter, ha="center", va="center", family="monospace")


def legend(axes: "Axes", kinds: tuple[tuple[str, str], ...]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=c, edgecolor="black", label=label) for c, label in kinds]
    handles.append(
        Patch(
            facecolor="white", edgecolor="black", linestyle="--", label="chosen from the last row"
        )
    )
    style = {"handlelength": 1.3, "columnspacing": 1.2, "frameon": False}
    axes.legend(handles=handles, fontsize=9, ncols=3, loc="lower center", **style)


if __name__ == "__main__":
    save_plot(PATH, draw, SIZE, dpi=90)
