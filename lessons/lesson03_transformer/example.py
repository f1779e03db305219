"""Draw example.png, attention with numbers: python -m lessons.lesson03_transformer.example

The numbers are those of the library's functions.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATH = Path(__file__).parent / "example.png"
SIZE = (11, 3.9)
TOKENS = ("width", "return", "wid")
Q = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
K = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
V = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
DEGREES = 60  # per position


def draw(figure: "Figure") -> None:
    """Draw the attention of three tokens on the left, and a rotated vector on the right."""
    attention, rotation = figure.subplots(1, 2, width_ratios=(1.6, 1))
    draw_attention(attention)
    draw_rotation(rotation)


def draw_attention(axes: "Axes") -> None:
    """Draw P, a row for each query and a column for each key, and the outputs."""
    weights = plain.causal_softmax((Q @ K.T)[None], 2**-0.5)[0]
    shown = np.where(np.tri(3) > 0, weights, np.nan)
    axes.imshow(shown, cmap="Greens", vmin=0, vmax=1.4)
    for row, column in np.ndindex(3, 3):
        label = f"{weights[row, column]:.2f}" if column <= row else "masked"
        colour = "black" if column <= row else "grey"
        axes.text(column, row, label, ha="center", va="center", fontsize=11, color=colour)
    for row, (numbers, total) in enumerate(zip(weights, weights @ V, strict=True)):
        terms = [f"{p:.2f} · {vector(v)}" for p, v in zip(numbers[: row + 1], V, strict=False)]
        label = " + ".join(terms) + f"\n= {vector(total, 2)}"
        axes.text(2.7, row, label, va="center", fontsize=9)
    axes.set_xticks(
        range(3),
        [f"{t}\nk = {vector(k)}\nv = {vector(v)}" for t, k, v in zip(TOKENS, K, V, strict=True)],
    )
    axes.set_yticks(range(3), [f"{t}\nq = {vector(q)}" for t, q in zip(TOKENS, Q, strict=True)])
    axes.tick_params(
        labelsize=9, length=0, top=True, labeltop=True, bottom=False, labelbottom=False
    )
    axes.set_title("attention weights P, and the outputs P v")
    axes.set_xlim(-0.5, 6.6)
    axes.spines[:].set_visible(False)


def vector(numbers: np.ndarray, digits: int = 0) -> str:
    return "(" + ", ".join(f"{number:.{digits}f}" for number in numbers) + ")"


def draw_rotation(axes: "Axes") -> None:
    """Draw the vector (1, 0) at four positions."""
    angles = np.radians(DEGREES) * np.arange(4)[:, None]  # (T, 1)
    same = np.tile([1.0, 0.0], (1, 4, 1, 1))  # (1, T, 1, 2)
    circle = np.linspace(0, np.pi, 100)
    axes.plot(np.cos(circle), np.sin(circle), ":", color="grey")
    for position, (x, y) in enumerate(plain.rotate(same, np.cos(angles), np.sin(angles))[0, :, 0]):
        style = {
            "arrowstyle": "-|>",
            "color": "#1e8449",
            "linewidth": 2,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", (x, y), (0, 0), arrowprops=style)
        axes.text(
            1.3 * x,
            1.15 * y + (0.08 if y > 0.1 else -0.03),
            f"position {position}",
            ha="center",
            fontsize=9,
        )
    axes.set(title=f"(1, 0), rotated by {DEGREES}° per position", aspect="equal")
    axes.set(xlim=(-1.7, 1.7), ylim=(-0.3, 1.4))
    axes.axis("off")


if __name__ == "__main__":
    save_plot(PATH, draw, SIZE, dpi=90)
