"""Lesson 9's picture: every way's speed beside the memory's, what more rows cost, and where weights lie."""

from lessons.lesson09_int4.variants import BESIDE, DECODED, FLOAT, KERNEL, LOOP, ROWS
from minimtp.backend import numpy as np

COLOURS = {
    FLOAT: "#7f8c8d",
    DECODED: "#c0392b",
    LOOP: "#ca6f1e",
    BESIDE: "#2e86c1",
    KERNEL: "#1e8449",
}
OUTPUTS, INPUTS = 64, 64  # of the matrix whose layouts are shown


def draw(figure: object, speeds: dict, limits: dict, costs: dict) -> None:
    race, rows, file, panels = figure.subplots(1, 4, width_ratios=(2.2, 1.3, 1, 1))
    names = list(next(iter(speeds.values())))
    width = 0.84 / len(names)
    for i, name in enumerate(names):
        places = [at + (i - (len(names) - 1) / 2) * width for at in range(len(speeds))]
        race.bar(
            places,
            [speed[name] for speed in speeds.values()],
            width,
            color=COLOURS[name],
            label=name,
        )
    for name in (FLOAT, KERNEL):
        label = f"reading {name.partition(',')[0]} weights"
        for at, limit in enumerate(limits.values()):
            race.plot(
                [at - 0.45, at + 0.45],
                [limit[name]] * 2,
                ":",
                color=COLOURS[name],
                label=None if at else label,
            )
    race.set(
        yscale="log",
        title="one row: weights a second",
        ylabel="Gweight/s",
        xticks=range(len(speeds)),
    )
    race.set_xticklabels(speeds)
    race.set_ylim(top=12 * max(max(limit.values()) for limit in limits.values()))
    race.legend(fontsize=7, ncols=2, loc="upper left")

    for name, cost in costs.items():
        rows.plot(ROWS, cost, "o-", color=COLOURS[name], label=name, markersize=4)
    rows.plot(ROWS, ROWS, ":", color="black", linewidth=1, label="rows one by one")
    rows.set(title="time of T rows over one", xlabel="rows T", ylim=(0, max(ROWS)), xticks=ROWS)
    rows.legend(fontsize=7)
    for axes in (race, rows):
        axes.grid(alpha=0.3)

    for axes, places, title in (
        (file, in_a_file(), "in a file"),
        (panels, in_panels(), "in panels"),
    ):
        axes.imshow(places, cmap="viridis", interpolation="nearest")
        axes.set(
            title=f"{title}: dark is read first",
            xlabel="input",
            ylabel="output",
            xticks=(0, 32),
            yticks=(0, 32),
        )


def in_a_file() -> np.ndarray:
    """(OUTPUTS, INPUTS): the byte of Q4_0 blocks in which each weight lies."""
    n, k = np.indices((OUTPUTS, INPUTS))
    return (n * (INPUTS // 32) + k // 32) * 18 + 2 + k % 16


def in_panels() -> np.ndarray:
    """The same for panels: group, step, output, byte."""
    n, k = np.indices((OUTPUTS, INPUTS))
    return (
        ((n // 32) * (INPUTS // 32) + k // 32) * 576
        + 64
        + (k % 32 // 8) * 128
        + (n % 32) * 4
        + k % 4
    )
