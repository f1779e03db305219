"""Lesson 7's plot: weights on two grids, errors within their bound, and the loss of each method."""

from typing import TYPE_CHECKING

from lessons.lesson07_quantization.quantized import Quantized
from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.quant.grids import Q4_0, grid_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#2e86c1", "#c0392b", "#7f8c8d"
METHOD_COLOURS = ("#7f8c8d", "#ca6f1e", "#d4ac0d", "#2e86c1", "#1e8449")
SHOWN = 12_000  # points per colour


def draw(
    figure: "Figure",
    matrix: Array,
    errors: tuple[np.ndarray, np.ndarray, np.ndarray],
    methods: dict[str, dict[int, Quantized]],
    before: float,
) -> None:
    """Draw the three parts.

    errors: the result of `errors_in_scales`. methods: results by method and bits. before: the
    float32 loss.
    """
    grids, bound, loss = figure.subplots(1, 3)
    draw_grids(grids, matrix)
    draw_errors(bound, *errors)
    for i, ((method, found), colour) in enumerate(
        zip(methods.items(), METHOD_COLOURS, strict=True)
    ):
        places = [bits + (i - (len(methods) - 1) / 2) * 0.16 for bits in found]
        added = [result.bits_per_byte - before for result in found.values()]
        loss.bar(places, added, 0.15, color=colour, label=method)
    loss.set(title="loss added by quantization", xlabel="bits per code", xticks=[2, 3, 4])
    loss.set_ylabel("bits per byte above float32")
    loss.legend(fontsize=8)
    loss.grid(alpha=0.3, axis="y")
    loss.set_axisbelow(True)


def draw_grids(axes: "Axes", matrix: Array) -> None:
    """Show the first group of a matrix between the levels of its own scale and of one scale."""
    group = to_numpy(matrix)[:1, :32]
    grids = {
        "scale of the group": Q4_0,
        "scale of the matrix": grid_named("int4-restricted-tensor"),
    }
    for row, (name, grid) in enumerate(grids.items()):
        codes = np.arange(grid.min_code, grid.max_code + 1, dtype=np.int8)
        scales = to_numpy(grid.encode(matrix)[1])[:1, :1]
        levels = grid.decode(codes[None], scales)[0]
        axes.vlines(levels, row - 0.3, row + 0.3, color=GREY, linewidth=1)
        axes.plot(group[0], np.linspace(row - 0.22, row + 0.22, 32), ".", color=BLUE, markersize=5)
        axes.text(0.02, row + 0.38, name, transform=axes.get_yaxis_transform(), fontsize=9)
    widest = 1.3 * np.abs(group).max()
    axes.set(title="32 weights and the 4-bit levels", xlabel="weight", yticks=[])
    axes.set(xlim=(-widest, widest), ylim=(-0.5, 1.6))


def draw_errors(axes: "Axes", weights: np.ndarray, errors: np.ndarray, clipped: np.ndarray) -> None:
    """Show the error of each weight, with the bound of half a scale shaded."""
    axes.axhspan(-0.5, 0.5, color="#d5f5e3")
    for part, colour, label in ((~clipped, BLUE, "rounded"), (clipped, RED, "clipped")):
        chosen = np.flatnonzero(part)[:SHOWN]
        axes.plot(weights[chosen], errors[chosen], ",", color=colour)
        axes.plot([], [], "s", color=colour, label=label)
    axes.set(title="error of every weight on q4_0", xlabel="weight / scale", ylabel="error / scale")
    axes.set_ylim(-1.1, 1.1)
    axes.legend(fontsize=8)
