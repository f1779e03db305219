"""The comparison as a picture. Needs matplotlib (the extra `plots`); nothing else does."""

import importlib.util
from pathlib import Path

PICTURE_NAME = "compare.png"
COLOURS = ("#7f8c8d", "#2e86c1", "#1e8449", "#ca6f1e")


def draw_comparison(result: dict[str, object], folder: Path) -> Path | None:
    """The comparison's picture, in compare.png. None where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    draw(figure, result["configurations"])
    path = folder / PICTURE_NAME
    figure.savefig(path, dpi=120)
    return path


def draw(figure: object, configurations: list[dict[str, object]]) -> None:
    """Speed, quality against size, and acceptance by depth, side by side."""
    speed, quality, acceptance = figure.subplots(1, 3)

    for shift, suffix, alpha, label in (
        (-0.2, "", 1.0, "temperature 0"),
        (0.2, "_t1", 0.5, "temperature 1"),
    ):
        for i, (c, colour) in enumerate(zip(configurations, COLOURS, strict=True)):
            value = c[f"tokens_per_second{suffix}"]
            spread = [
                [value - c[f"tokens_per_second_slowest{suffix}"]],
                [c[f"tokens_per_second_fastest{suffix}"] - value],
            ]
            speed.bar(
                i + shift,
                value,
                0.38,
                color=colour,
                alpha=alpha,
                yerr=spread,
                capsize=2,
                label=None if i else label,
            )
            top, gain = (
                (i + shift, c[f"tokens_per_second_fastest{suffix}"]),
                f"{c[f'speedup{suffix}']:.2f}x",
            )
            speed.annotate(gain, top, (0, 4), textcoords="offset points", ha="center", fontsize=8)
    speed.set_xticks(
        range(len(configurations)),
        [c["title"].replace(", ", ",\n") for c in configurations],
        fontsize=8,
    )
    speed.set(ylabel="tokens per second", title="decoding speed (solid: temperature 0, pale: 1)")

    for c, colour in zip(configurations, COLOURS, strict=True):
        quality.scatter(
            c["weight_bytes"] / 1e6, c["bits_per_byte"], color=colour, s=60, label=c["title"]
        )
    quality.set(
        xlabel="weights, MB",
        ylabel="bits per byte, held out (lower is better)",
        title="quality against size",
    )
    quality.set_xlim(left=0)
    quality.margins(y=0.3)
    quality.legend(fontsize=8)

    for c, colour in zip(configurations, COLOURS, strict=True):
        for suffix, line in (("", "o-"), ("_t1", "o--")):
            if shares := [share for share in c[f"acceptance{suffix}"] if share is not None]:
                acceptance.plot(range(1, len(shares) + 1), shares, line, color=colour, markersize=4)
    acceptance.set(
        xlabel="depth of the draft",
        ylabel="accepted / drafted",
        ylim=(0, 1),
        title="acceptance (dashed: temperature 1)",
    )
    for axes in (speed, quality, acceptance):
        axes.grid(alpha=0.3)
