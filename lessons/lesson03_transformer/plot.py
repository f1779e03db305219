"""Lesson 3's picture: what the text before is worth, and where two of the heads look."""

from minimtp.backend import numpy as np


def draw(
    figure: object, windows: dict[int, float], bits: np.ndarray, maps: np.ndarray, text: str
) -> None:
    gain, near, far = figure.subplots(1, 3)
    for (seen, value), colour in zip(
        windows.items(), ("#ca6f1e", "#a04000", "#6e2c00"), strict=False
    ):
        gain.hlines(value, seen, len(bits), color=colour, label=f"window of {seen}")
    averaged = [bits[max(0, i - 4) : i + 5].mean() for i in range(len(bits))]
    gain.plot(range(1, len(bits) + 1), averaged, color="#1e8449", linewidth=2, label="transformer")
    gain.set(
        title="what the text before is worth",
        xlabel="bytes before",
        ylabel="bits for the next byte",
    )
    gain.legend(fontsize=8)
    gain.grid(alpha=0.3)

    places = np.arange(len(text))
    distance = (
        (maps * np.maximum(places[:, None] - places, 0)).sum(axis=-1).mean(axis=-1)
    )  # (layers, heads)
    previous = maps.diagonal(-1, 2, 3).mean(
        axis=-1
    )  # (layers, heads): attention to the byte just before
    labels = [{"\n": "\\n", " ": "·"}.get(letter, letter) for letter in text]
    for axes, score, name in (
        (near, previous, "at the byte before"),
        (far, distance, "furthest back"),
    ):
        layer, head = np.unravel_index(score.argmax(), score.shape)
        axes.imshow(maps[layer, head], cmap="Greens", vmin=0, vmax=0.6)
        axes.set_xticks(places, labels, fontsize=6, family="monospace")
        axes.set_yticks(places, labels, fontsize=6, family="monospace")
        axes.set(title=f"looks {name}: layer {layer + 1}, head {head + 1}", xlabel="looked at")
    near.set_ylabel("about to write what follows")
