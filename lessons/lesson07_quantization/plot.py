"""Lesson 7's picture: weights on two grids, the error inside its bound, and what each method costs."""

from lessons.lesson07_quantization.quantized import Rounded
from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.quant.grids.registry import Q4_0, grid_named

BLUE, RED, GREY = "#2e86c1", "#c0392b", "#7f8c8d"
METHODS = ("#7f8c8d", "#ca6f1e", "#d4ac0d", "#2e86c1", "#1e8449")


def draw(
    figure: object,
    matrix: Array,
    errors: tuple[np.ndarray, ...],
    methods: dict[str, dict[int, Rounded]],
    before: float,
) -> None:
    grids, bound, cost = figure.subplots(1, 3)
    group = to_numpy(matrix)[:1, :32]
    for row, (name, grid) in enumerate(
        {"its own step": Q4_0, "a step for all": grid_named("int4-restricted-tensor")}.items()
    ):
        codes = np.arange(grid.smallest_code, grid.largest_code + 1, dtype=np.int8)
        scales = to_numpy(grid.encode(matrix)[1])[:1, :1]
        levels = grid.decode(codes[None], scales)[0]
        grids.vlines(levels, row - 0.3, row + 0.3, color=GREY, linewidth=1)
        grids.plot(group[0], np.linspace(row - 0.22, row + 0.22, 32), ".", color=BLUE, markersize=5)
        grids.text(0.02, row + 0.38, name, transform=grids.get_yaxis_transform(), fontsize=9)
    widest = 1.3 * np.abs(group).max()
    grids.set(title="32 weights, and the levels of 4 bits", xlabel="weight", yticks=[])
    grids.set(xlim=(-widest, widest), ylim=(-0.5, 1.6))

    weight, error, clipped = errors
    shown = slice(None, 12_000)
    bound.axhspan(-0.5, 0.5, color="#d5f5e3")
    for part, colour, label in ((~clipped, BLUE, "rounded"), (clipped, RED, "clipped")):
        chosen = np.flatnonzero(part)[shown]
        bound.plot(weight[chosen], error[chosen], ",", color=colour)
        bound.plot([], [], "s", color=colour, label=label)
    bound.set(
        title="every weight's error on q4_0",
        xlabel="weight, in steps",
        ylabel="error, in steps",
        ylim=(-1.1, 1.1),
    )
    bound.legend(fontsize=8)

    for i, ((method, found), colour) in enumerate(zip(methods.items(), METHODS, strict=True)):
        places = [bits + (i - (len(methods) - 1) / 2) * 0.16 for bits in found]
        cost.bar(
            places,
            [rounded.bits_per_byte - before for rounded in found.values()],
            0.15,
            color=colour,
            label=method,
        )
    cost.set(
        title="what rounding costs",
        xlabel="bits of a code",
        ylabel="bits per byte above float32",
        xticks=[2, 3, 4],
    )
    cost.legend(fontsize=8)
    cost.grid(alpha=0.3, axis="y")
    cost.set_axisbelow(True)
