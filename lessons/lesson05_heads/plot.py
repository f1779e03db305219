"""Lesson 5's plot: accuracy of each kind of head, acceptance by depth, and some drafts."""

from typing import TYPE_CHECKING

from lessons.lesson05_heads.predictions import correct, draft
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.training.evaluate import teacher_forced_acceptance
from minimtp.training.run.folder import LoadedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#7f8c8d", "#ca6f1e", "#2e86c1", "#a9dfbf", "#1e8449")
GREY, GREEN, RED = "#7f8c8d", "#1e8449", "#c0392b"
DRAFTS, CONTEXT = 9, 18  # drafts that are shown, and the bytes before each


def draw(
    figure: "Figure",
    predicted: dict[str, np.ndarray],
    windows: np.ndarray,
    parallel: LoadedRun,
    conditioned: LoadedRun,
) -> None:
    """Draw the three parts. predicted: the predictions (W, T, 1 + K) by kind of head."""
    accuracy, acceptance, text = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for (name, tokens), colour in zip(predicted.items(), COLOURS, strict=True):
        style = {"color": colour, "label": name, "markersize": 4}
        distances = range(1, tokens.shape[-1] + 1)
        shares = correct(tokens, windows).mean(axis=(0, 1))
        accuracy.plot(distances, shares, "o-", **style)
        shares = [share or 0.0 for share in teacher_forced_acceptance(tokens)]
        acceptance.plot(distances[:-1], shares, "o-", **style)
    accuracy.set(
        title="correct, if the heads read the text", xlabel="bytes ahead", ylabel="share",
        ylim=(0, 1),
    )  # fmt: skip
    accuracy.legend(fontsize=8, loc="upper right")
    acceptance.set(
        title="accepted, if all before are accepted", xlabel="depth k of the head", ylim=(0, 1)
    )
    for axes in (accuracy, acceptance):
        axes.grid(alpha=0.3)
    draw_drafts(text, windows, parallel, conditioned)


def draw_drafts(
    axes: "Axes", windows: np.ndarray, parallel: LoadedRun, conditioned: LoadedRun
) -> None:
    """Write one line per held-out position: the bytes before it, and both models' drafts."""
    axes.set_axis_off()
    axes.set_title("the text, then drafts: parallel, token-conditioned")
    length = windows.shape[1] - 1 - conditioned.model.depth
    rows = windows[:: max(1, len(windows) // DRAFTS)][:DRAFTS]
    xp = array_module(conditioned.model.trunk.embedding.weight.data)
    for column, run in enumerate((parallel, conditioned)):
        drafts = draft(run.model, xp.asarray(rows[:, :length]))  # (DRAFTS, 1 + K)
        for line, (row, tokens) in enumerate(zip(rows, drafts, strict=True)):
            y = 1 - (line + 1) / (DRAFTS + 1)
            if column == 0:
                before = row[max(0, length - CONTEXT) : length]
                write(axes, 0, y, run, before, [GREY] * CONTEXT)
            accepted = np.cumprod(tokens == row[length:])
            colours = [GREEN if is_accepted else RED for is_accepted in accepted]
            write(axes, CONTEXT + 1 + column * (len(tokens) + 2), y, run, tokens, colours)


def write(
    axes: "Axes", start: int, y: float, run: LoadedRun, tokens: np.ndarray, colours: list[str]
) -> None:
    """Write tokens in a row, one character each, each in its colour."""
    for i, (token, colour) in enumerate(zip(tokens, colours, strict=False)):
        letter = run.tokenizer.decode([int(token)])
        printable = letter if letter.isprintable() and letter else "?"
        shown = {" ": "·", "\n": "¶", "\t": "→"}.get(letter, printable)
        style = {"color": colour, "family": "monospace", "fontsize": 10}
        axes.text((start + i) / 38, y, shown, transform=axes.transAxes, **style)
