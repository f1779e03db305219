"""Lesson 2's picture: how fast each optimizer learns, what memorizing looks like, and what the byte vectors have become."""

from lessons.lesson02_training.loop import Trained
from minimtp.backend import numpy as np
from minimtp.backend import to_numpy


def draw(figure: object, descents: dict[float, Trained], adam: Trained, memorized: Trained) -> None:
    speed, memory, vectors = figure.subplots(1, 3)
    for (rate, run), shade in zip(descents.items(), ("#2e86c1", "#ca6f1e", "#c0392b"), strict=True):
        if run.alive:
            speed.plot(*zip(*run.watched, strict=True), color=shade, label=f"descent {rate:g}")
        else:
            end = len(run.losses) - 1, run.watched[0][1]
            speed.plot(*end, "x", color=shade, markersize=9, markeredgewidth=2.5)
            speed.text(
                end[0] + 60,
                end[1],
                f"descent {rate:g}: dead at step {end[0]}",
                color=shade,
                fontsize=8,
                va="center",
            )
    speed.plot(*zip(*adam.watched, strict=True), "k", label="AdamW", linewidth=2)
    speed.set(title="held-out text", xlabel="step", ylabel="bits per byte", ylim=(1.5, 8.5))

    memory.plot(smoothed(memorized.losses), color="#ca6f1e", label="18,000 bytes")
    memory.plot(
        *zip(*memorized.watched, strict=True),
        "o-",
        color="#2e86c1",
        markersize=3,
        label="held-out text",
    )
    memory.set(title="memorizing", xlabel="step", ylabel="bits per byte")
    for axes in (speed, memory):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)

    characters = [chr(code) for code in range(33, 127)]
    table = to_numpy(adam.model.embedding.weight.data)[33:127].astype(np.float64)
    table = table - table.mean(axis=0)
    places = (
        table @ np.linalg.svd(table, full_matrices=False)[2][:2].T
    )  # (94, 2), the two widest directions
    for character, (x, y) in zip(characters, places, strict=True):
        vectors.text(
            x,
            y,
            character,
            color=colour(character),
            ha="center",
            va="center",
            fontsize=9,
            family="monospace",
        )
    vectors.set(title="the byte vectors, flattened", xticks=[], yticks=[])
    vectors.set_xlim(places[:, 0].min() - 0.1, places[:, 0].max() + 0.1)
    vectors.set_ylim(places[:, 1].min() - 0.1, places[:, 1].max() + 0.1)


def colour(character: str) -> str:
    kinds = (str.isdigit, "#c0392b"), (str.isupper, "#2e86c1"), (str.islower, "#1e8449")
    return next((name for test, name in kinds if test(character)), "#7f8c8d")


def smoothed(values: list[float], width: int = 20) -> list[float]:
    return [
        sum(values[max(0, i - width) : i + 1]) / len(values[max(0, i - width) : i + 1])
        for i in range(len(values))
    ]
