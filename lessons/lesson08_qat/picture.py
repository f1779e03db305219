"""Lesson 8's picture: the step's derivative, weights that learn through their rounding, and training against rounding."""

from lessons.lesson08_qat.derivatives import HIGH, LOW, by_hand
from lessons.lesson08_qat.tune import Diary
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
    slope.plot(levels, np.clip(np.rint(levels), LOW, HIGH), color="#7f8c8d", linewidth=1, label="of the staircase: its code")
    slope.plot(levels, by_hand(levels, 1.0), ".", color="#c0392b", markersize=2, label="LSQ's: code minus weight, in steps")
    slope.set(title="derivative in the step", xlabel="weight, in steps", ylabel="derivative")
    slope.legend(fontsize=8)

    masters, rounded = np.array(diary.masters), np.array(diary.rounded)  # (steps, weights)
    way = np.abs(np.diff(rounded, axis=0)).sum(axis=0)  # which weights hopped to another level, and how far
    restless = np.argsort(-way, kind="stable")[:3]
    for weight, colour in zip(restless, ("#2e86c1", "#ca6f1e", "#1e8449"), strict=True):
        paths.plot(masters[:, weight], color=colour, linewidth=1)
        paths.plot(rounded[:, weight], color=colour, linewidth=1, alpha=0.5, drawstyle="steps-post", linestyle="--")
    paths.plot([], [], color="black", label="the master weight")
    paths.plot([], [], color="black", linestyle="--", alpha=0.5, label="what the model computes with")
    paths.set(title="three weights of 2 bits", xlabel="step", ylabel="weight")
    paths.legend(fontsize=8)

    for name, colour in COLOURS.items():
        style = "o--" if name in ("rtn", "gptq") else "o-"
        cost.plot(list(found), [values[name] for values in found.values()], style, color=colour, label=name, markersize=4)
    cost.axhline(exact, color="black", linestyle=":", linewidth=1, label="float32, trained on")
    cost.set(title="rounded after training, or trained for it", xlabel="bits of a code", ylabel="bits per byte")
    cost.set_xticks(list(found))
    cost.legend(fontsize=8)
    cost.grid(alpha=0.3)
