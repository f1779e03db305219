"""Lesson 5's plots: accuracy of each kind of head, correct predictions in a row, some drafts, and
acceptance.
"""

from typing import TYPE_CHECKING

from lessons.lesson05_heads.predictions import draft
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.training.evaluate import teacher_forced_acceptance
from minimtp.training.run.folder import LoadedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#7f8c8d", "#ca6f1e", "#2e86c1", "#a9dfbf", "#1e8449")
GREY, GREEN, RED = "#7f8c8d", "#1e8449", "#c0392b"
DRAFTS, CONTEXT = 9, 12  # drafts that are shown, and the bytes before each


def draw(
    figure: "Figure",
    right: dict[str, np.ndarray],
    windows: np.ndarray,
    parallel: LoadedRun,
    conditioned: LoadedRun,
) -> None:
    """Draw the three parts. right: correct predictions (W, T, 1 + K) by kind of head."""
    accuracy, in_a_row, text = figure.subplots(1, 3, width_ratios=(1, 1, 1.45))
    for (name, each), colour in zip(right.items(), COLOURS, strict=True):
        style = {"color": colour, "label": name, "markersize": 4}
        accuracy.plot(range(1, each.shape[-1] + 1), each.mean(axis=(0, 1)), "o-", **style)
    accuracy.set(title="correct, if the heads read the text", xlabel="bytes ahead", ylabel="share")
    accuracy.set_ylim(0, 1)
    accuracy.legend(fontsize=8, loc="upper right")
    accuracy.grid(alpha=0.3)
    draw_in_a_row(in_a_row, right)
    draw_drafts(text, windows, parallel, conditioned)


def draw_in_a_row(axes: "Axes", right: dict[str, np.ndarray]) -> None:
    """Draw a bar for each kind. Part j is the share of positions where the first j are correct."""
    for row, ((name, each), colour) in enumerate(zip(right.items(), COLOURS, strict=True)):
        parts = np.cumprod(each, axis=-1).mean(axis=(0, 1))
        ends = parts.cumsum()
        axes.barh(row, parts, 0.55, ends - parts, color=colour, edgecolor="white")
        axes.text(0, row - 0.36, name, va="bottom", fontsize=9)
        axes.text(ends[-1] + 0.03, row, f"{ends[-1]:.2f}", va="center", fontsize=10)
        if row == 0:
            for j, (part, end) in enumerate(zip(parts[:3], ends, strict=False), start=1):
                axes.text(end - part / 2, row, str(j), ha="center", va="center", fontsize=9)
    axes.set(title="correct in a row", xlabel="predictions from one pass", xlim=(0, 2.3))
    axes.set_ylim(len(right) - 0.6, -0.75)
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)


def draw_acceptance(figure: "Figure", predicted: dict[str, np.ndarray]) -> None:
    """Draw the acceptance by depth of the kinds of heads that the text compares."""
    axes = figure.subplots()
    for (name, tokens), colour in zip(predicted.items(), COLOURS, strict=True):
        if name in ("no heads", "sequential"):
            continue
        shares = [share or 0.0 for share in teacher_forced_acceptance(tokens)]
        axes.plot(range(1, tokens.shape[-1]), shares, "o-", color=colour, label=name, markersize=4)
    axes.set(title="accepted, if all before are accepted", xlabel="depth k of the head")
    axes.set(ylabel="share of drafts", ylim=(0, 1))
    axes.legend(fontsize=9, loc="lower right")
    axes.grid(alpha=0.3)


def draw_drafts(
    axes: "Axes", windows: np.ndarray, parallel: LoadedRun, conditioned: LoadedRun
) -> None:
    """Write one line per held-out position: the bytes around it, and both models' drafts."""
    axes.set_axis_off()
    count = 1 + conditioned.model.depth
    length = windows.shape[1] - count
    rows = windows[:: max(1, len(windows) // DRAFTS)][:DRAFTS]
    starts = CONTEXT + 1 + (count + 1) * np.arange(3)  # of the text's next bytes, and of the drafts
    total = starts[-1] + count
    titles = ("the text so far", "goes on", "parallel", "token-\nconditioned")
    widths = (CONTEXT, count, count, count)
    for start, width, title in zip((0, *starts), widths, titles, strict=True):
        place = (start + width / 2) / total
        axes.text(place, 0.97, title, ha="center", va="bottom", transform=axes.transAxes)
    xp = array_module(conditioned.model.trunk.embedding.weight.data)
    inputs = xp.asarray(rows[:, :length])
    drafts = [draft(run.model, inputs) for run in (parallel, conditioned)]  # (DRAFTS, 1 + K) each
    for line, row in enumerate(rows):
        y = 0.97 - (line + 1) / (DRAFTS + 1)
        context, following = row[max(0, length - CONTEXT) : length], row[length:]
        write(axes, 0, y, total, parallel, context, [GREY] * CONTEXT)
        write(axes, starts[0], y, total, parallel, following, ["black"] * count)
        for start, tokens in zip(starts[1:], drafts, strict=True):
            accepted = np.cumprod(tokens[line] == following)
            colours = [GREEN if is_accepted else RED for is_accepted in accepted]
            write(axes, start, y, total, parallel, tokens[line], colours)


def write(
    axes: "Axes",
    start: int,
    y: float,
    total: int,
    run: LoadedRun,
    tokens: np.ndarray,
    colours: list[str],
) -> None:
    """Write tokens in a line of `total` characters, one each, from `start` on."""
    for i, (token, colour) in enumerate(zip(tokens, colours, strict=False)):
        letter = run.tokenizer.decode([int(token)])
        printable = letter if letter.isprintable() and letter else "?"
        shown = {" ": "·", "\n": "↵", "\t": "→"}.get(letter, printable)
        style = {"color": colour, "family": "monospace", "fontsize": 10}
        axes.text((start + i) / total, y, shown, transform=axes.transAxes, **style)
