"""Lesson 8's picture: the step's derivative, weights that learn through their rounding, and training against rounding."""

from lessons.lesson08_qat.derivatives import HIGH, LOW, by_hand
from lessons.lesson08_qat.finetune import Diary
from minimtp.backend import numpy as np

COLOURS = {
    "rtn": "#7f8c8d",
    "gptq": "#2c3e50",
    "trained": "#2e86c1",
    "with a teacher": "#1e8449",
    "with learned steps": "#ca6f1e",
}


def draw(figure: object, diary: Diary, found: dict[int, dict[str, float]], exact: float) -> None:
    slope, paths, cost = figure.subplots(1, 3)
    levels = np.linspace(LOW - 3, HIGH + 3, 1500)
    slope.plot(
        levels,
        np.clip(np.rint(levels), LOW, HIGH),
        color="#7f8c8d",
        linewidth=1,
        label="of the staircase: its code",
    )
    slope.plot(
        levels,
        by_hand(levels, 1.0),
        ".",
        color="#c0392b",
        markersize=2,
        label="LSQ's: code minus weight, in steps",
    )
    slope.set(title="derivative in the step", xlabel="weight, in steps", ylabel="derivative")
    slope.legend(fontsize=8, markerscale=5)

    masters, codes = np.array(diary.masters), np.array(diary.codes, int)  # (steps, weights)
    above = (
        masters - (codes.max(axis=0) + codes.min(axis=0)) / 2
    )  # the middle between a weight's two levels
    hops = (np.diff(codes, axis=0) != 0).sum(axis=0) * (np.ptp(codes, axis=0) == 1)
    plain = hops * np.minimum(
        above.max(axis=0), -above.min(axis=0)
    )  # hopped to and fro, and went clearly to both sides
    for weight, colour in zip(
        np.argsort(-plain, kind="stable")[:3], ("#2e86c1", "#ca6f1e", "#1e8449"), strict=True
    ):
        paths.plot(above[:, weight], color=colour)
    paths.axhline(0, color="black", linewidth=1)
    paths.text(
        0.03, 0.95, "rounded to the upper level", transform=paths.transAxes, va="center", fontsize=8
    )
    paths.text(
        0.03, 0.05, "rounded to the lower level", transform=paths.transAxes, va="center", fontsize=8
    )
    paths.set(
        title="three master weights",
        xlabel="training step",
        ylabel="master weight, its levels at -0.5 and 0.5",
    )
    paths.margins(y=0.15)

    for name, colour in COLOURS.items():
        style = "o--" if name in ("rtn", "gptq") else "o-"
        cost.plot(
            list(found),
            [values[name] for values in found.values()],
            style,
            color=colour,
            label=name,
            markersize=4,
        )
    cost.axhline(exact, color="black", linestyle=":", linewidth=1, label="float32, trained on")
    cost.set(
        title="rounded after training, or trained for it",
        xlabel="bits of a code",
        ylabel="bits per byte",
    )
    cost.set_xticks(list(found))
    cost.legend(fontsize=8)
    cost.grid(alpha=0.3)
