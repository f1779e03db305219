"""Lesson 2's plot: how fast each optimizer learns, memorizing, and the learned byte vectors."""

from typing import TYPE_CHECKING

from lessons.lesson02_training.loop import Trained
from minimtp.backend import numpy as np
from minimtp.backend import to_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREEN, GREY = "#2e86c1", "#ca6f1e", "#c0392b", "#1e8449", "#7f8c8d"
STYLES = (":", "-", "--")  # of the lowest, the middle and the highest learning rate


def draw(
    figure: "Figure", runs: dict[str, dict[float, Trained]], adam: Trained, memorized: Trained
) -> None:
    """Draw the three parts.

    runs: by optimizer and learning rate. adam: the run whose byte vectors are drawn.
    """
    speed, memory, vectors = figure.subplots(1, 3)
    first = adam.held_out[0][1]  # the loss of the untrained model
    for name, by_rate in runs.items():
        colour = "black" if name == "AdamW" else ORANGE
        for style, (rate, run) in zip(STYLES, by_rate.items(), strict=False):
            label = f"{name}, rate {rate:g}"
            if run.diverged:
                label += f": diverges at step {len(run.losses)}"
                style, colour = "x", RED
            elif run.held_out[-1][1] > first - 1:
                label += f": ends at {run.held_out[-1][1]:.1f}"
            speed.plot(*zip(*run.held_out, strict=True), style, color=colour, label=label)
    speed.set(title="held-out loss by optimizer and rate", xlabel="step", ylabel="bits per byte")
    best = min(run.held_out[-1][1] for run in runs["AdamW"].values())
    speed.set_ylim(best - 0.1, best + 0.45 * (first - best))

    memory.plot(running_mean(memorized.losses), color=ORANGE, label="the 18,000 training bytes")
    held_out = zip(*memorized.held_out, strict=True)
    memory.plot(*held_out, "o-", color=BLUE, markersize=3, label="held-out text")
    memory.set(title="memorizing", xlabel="step", ylabel="bits per byte")
    for axes in (speed, memory):
        axes.legend(fontsize=8, loc="upper right")
        axes.grid(alpha=0.3)
    draw_vectors(vectors, to_numpy(adam.model.embedding.weight.data))


def draw_vectors(axes: "Axes", table: np.ndarray) -> None:
    """Project the vectors of the printable bytes onto their first two principal components."""
    vectors = table[33:127].astype(np.float64)
    vectors = vectors - vectors.mean(axis=0)
    places = vectors @ np.linalg.svd(vectors, full_matrices=False)[2][:2].T  # (94, 2)
    centred = {"ha": "center", "va": "center", "fontsize": 9, "family": "monospace"}
    for code, (x, y) in enumerate(places, start=33):
        axes.text(x, y, chr(code), color=colour_of(chr(code)), **centred)
    axes.set(title="byte vectors (first two PCA axes)", xticks=[], yticks=[])
    axes.set_xlim(places[:, 0].min() - 0.1, places[:, 0].max() + 0.1)
    axes.set_ylim(places[:, 1].min() - 0.1, places[:, 1].max() + 0.1)


def colour_of(character: str) -> str:
    kinds = (str.isdigit, RED), (str.isupper, BLUE), (str.islower, GREEN)
    return next((colour for test, colour in kinds if test(character)), GREY)


def running_mean(values: list[float], width: int = 20) -> list[float]:
    windows = (values[max(0, i - width) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
