"""Lesson 3's plot: the loss by context length, and the attention of two heads."""

from typing import TYPE_CHECKING

from minimtp.backend import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREEN = "#1e8449"


def draw(
    figure: "Figure",
    windows: dict[str, tuple[int, float]],
    bits: np.ndarray,
    last_eight: float,
    maps: np.ndarray,
    text: str,
) -> None:
    """Draw the three parts.

    windows: (window length, loss) of the window models. bits (T,): the transformer's loss by
    position. last_eight: its loss from the last 8 bytes alone. maps (layers, heads, T, T): the
    attention weights for `text`.
    """
    loss, previous, far = figure.subplots(1, 3)
    styles = ("#e59866", "-"), ("#ca6f1e", "-"), ("#6e2c00", "-"), ("#e59866", "--")
    for (name, (seen, value)), (colour, style) in zip(windows.items(), styles, strict=False):
        loss.hlines(value, seen, len(bits), color=colour, linestyle=style, label=name)
    smooth = [bits[max(0, i - 4) : i + 5].mean() for i in range(len(bits))]
    loss.plot(range(1, len(bits) + 1), smooth, color=GREEN, linewidth=2, label="transformer")
    loss.hlines(
        last_eight, 8, len(bits), color=GREEN, linestyle="--", label="transformer, last 8 bytes"
    )
    loss.set(title="loss by context length", xlabel="bytes of context", ylabel="bits per byte")
    loss.legend(fontsize=8)
    loss.grid(alpha=0.3)

    positions = np.arange(len(text))
    distances = np.maximum(positions[:, None] - positions, 0)  # (T, T)
    mean_distance = (maps * distances).sum(axis=-1).mean(axis=-1)  # (layers, heads)
    to_previous = maps.diagonal(-1, 2, 3).mean(axis=-1)  # (layers, heads)
    draw_head(previous, maps, to_previous, text, "attends to the previous byte")
    draw_head(far, maps, mean_distance, text, "attends furthest back")


def draw_head(axes: "Axes", maps: np.ndarray, score: np.ndarray, text: str, name: str) -> None:
    """Draw the attention weights of the head with the largest score (layers, heads)."""
    layer, head = np.unravel_index(score.argmax(), score.shape)
    axes.imshow(maps[layer, head], cmap="Greens", vmin=0, vmax=0.6)
    labels = [{"\n": "↵", " ": "·"}.get(letter, letter) for letter in text]
    axes.set_xticks(range(len(text)), labels, fontsize=8, family="monospace")
    axes.set_yticks(range(len(text)), labels, fontsize=8, family="monospace")
    axes.set(title=f"{name} (layer {layer + 1}, head {head + 1})", ylabel="query")
    axes.set_xlabel("key (darkest: a weight of 0.6 or more)")
