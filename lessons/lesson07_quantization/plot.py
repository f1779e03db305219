"""Lesson 7's plot: how numbers are stored, three grids, weights between levels, and errors."""

from typing import TYPE_CHECKING

from lessons.lesson07_quantization.quantized import Quantized
from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.quant.grids import grid_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2e86c1", "#ca6f1e", "#1e8449", "#c0392b", "#7f8c8d"
METHOD_COLOURS = ("#7f8c8d", "#ca6f1e", "#d4ac0d", "#2e86c1", "#1e8449")
SHOWN = 12_000  # points per colour
# The fields of a number: (what it is, bits, colour). A group of 32 codes shares a float16 scale.
FIELDS = {
    "float32": [("sign", 1, GREY), ("exponent", 8, ORANGE), ("fraction", 23, BLUE)],
    "float16": [("", 1, GREY), ("exponent", 5, ORANGE), ("fraction", 10, BLUE)],
    "q4_0": [("code", 4, GREEN), ("", 0.5, GREY)],
}
RULES = {
    "symmetric": ("int3-restricted-channel", "codes -3 .. 3, scale max|x| / 3"),
    "the rule of Q4_0": ("int3-ggml-signed-channel", "-4 .. 3, extreme / -4"),
    "affine": ("int3-affine-channel", "-4 .. 3, scale (max - min) / 7"),
}
EXAMPLE = np.array([[-0.35, -0.2, 0.1, 0.3, 0.55, 0.9]], np.float32)


def draw(
    figure: "Figure",
    matrix: Array,
    errors: tuple[np.ndarray, np.ndarray, np.ndarray],
    methods: dict[str, dict[int, Quantized]],
    before: float,
) -> None:
    """Draw the five parts, a to e.

    errors: the result of `errors_in_scales`. methods: results by method and bits. before: the
    float32 loss.
    """
    parts = figure.subplot_mosaic([["bits", "bits", "rules"], ["grids", "errors", "loss"]])
    draw_fields(parts["bits"])
    draw_rules(parts["rules"])
    draw_grids(parts["grids"], matrix)
    draw_errors(parts["errors"], *errors)
    loss = parts["loss"]
    for i, ((method, found), colour) in enumerate(
        zip(methods.items(), METHOD_COLOURS, strict=True)
    ):
        places = [bits + (i - (len(methods) - 1) / 2) * 0.16 for bits in found]
        added = [result.bits_per_byte - before for result in found.values()]
        loss.bar(places, added, 0.15, color=colour, label=method)
    loss.set(title="e: loss added by quantization", xlabel="bits per code", xticks=[2, 3, 4])
    loss.set_ylabel("bits per byte above float32")
    loss.legend(fontsize=9)
    loss.grid(alpha=0.3, axis="y")
    loss.set_axisbelow(True)


def draw_fields(axes: "Axes") -> None:
    """Show the bits of a number in each format, one box per bit."""
    for row, (name, fields) in enumerate(FIELDS.items()):
        start = 0.0
        for what, bits, colour in fields:
            for bit in np.arange(0, bits):
                width = min(1, bits - bit)
                axes.barh(
                    -row, width, 0.6, start + bit, color=colour, edgecolor="white", align="edge"
                )
            axes.text(start + bits / 2, 0.68 - row, what, ha="center", fontsize=9)
            start += bits
        axes.text(-0.4, 0.3 - row, name, ha="right", va="center", fontsize=11)
    axes.text(5, -1.7, "+ half a bit: one float16 scale for 32 codes", va="center", fontsize=10)
    axes.set(title="a: the bits of one weight", xlim=(-4, 32.5), ylim=(-2.3, 1.1))
    axes.axis("off")


def draw_rules(axes: "Axes") -> None:
    """Show the 3-bit levels that each rule chooses for the same six weights."""
    for row, (name, (grid_name, note)) in enumerate(RULES.items()):
        grid = grid_named(grid_name)
        codes = np.arange(grid.min_code, grid.max_code + 1, dtype=np.int8)
        levels = grid.decode(codes[None], grid.encode(EXAMPLE)[1])[0]
        axes.vlines(levels, -row - 0.25, -row + 0.25, color=GREY, linewidth=2)
        axes.plot(EXAMPLE[0], np.full(EXAMPLE.size, -row), "o", color=BLUE, markersize=5)
        axes.text(0.02, -row + 0.36, f"{name}: {note}", transform=axes.get_yaxis_transform())
    axes.axvline(0, color="black", linewidth=0.5, zorder=0)
    axes.set(title="b: three rules for the levels (3 bits)", xlabel="weight", yticks=[])
    axes.set(xlim=(-1.05, 1.05), ylim=(-2.5, 0.75))


def draw_grids(axes: "Axes", matrix: Array) -> None:
    """Show a typical group of a matrix between the 2-bit levels of its own scale and of one scale
    for the matrix.
    """
    groups = to_numpy(matrix).reshape(len(matrix), -1, 32)
    extremes = np.abs(groups).max(axis=-1)  # (N, K/32)
    row_of, group_of = np.argwhere(extremes == np.quantile(extremes, 0.5, method="lower"))[0]
    group = groups[row_of, group_of]
    policy = "int2-ggml-signed"
    scales = [grid_named(f"{policy}-{size}").encode(matrix)[1] for size in ("g32", "tensor")]
    own, shared = to_numpy(scales[0])[row_of, group_of], to_numpy(scales[1]).item()
    codes = np.arange(-2, 2)
    for row, (name, scale) in enumerate((("its own scale", own), ("one scale per matrix", shared))):
        axes.vlines(codes * scale, row - 0.3, row + 0.3, color=GREY, linewidth=2)
        axes.plot(group, np.linspace(row - 0.22, row + 0.22, 32), ".", color=BLUE, markersize=5)
        axes.text(0.02, row + 0.38, name, transform=axes.get_yaxis_transform(), fontsize=9)
    widest = 1.1 * max(abs(own), abs(shared)) * 2
    axes.set(title="c: 32 weights and the 2-bit levels", xlabel="weight", yticks=[])
    axes.set(xlim=(-widest, widest), ylim=(-0.5, 1.6))


def draw_errors(axes: "Axes", weights: np.ndarray, errors: np.ndarray, clipped: np.ndarray) -> None:
    """Show the error of each weight, with the bound of half a scale shaded."""
    axes.axhspan(-0.5, 0.5, color="#d5f5e3")
    for part, colour, label in ((~clipped, BLUE, "rounded"), (clipped, RED, "clipped")):
        chosen = np.flatnonzero(part)[:SHOWN]
        axes.plot(weights[chosen], errors[chosen], ",", color=colour)
        axes.plot([], [], "s", color=colour, label=label)
    axes.set(title="d: errors of weights on q4_0", ylim=(-1.1, 1.1))
    axes.set(xlabel="weight / scale", ylabel="error / scale")
    axes.legend(fontsize=9)
