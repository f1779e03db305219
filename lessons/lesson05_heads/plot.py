"""Lesson 5's picture: how far each kind of head sees, how often its drafts would stand, and some of them."""

from lessons.lesson05_heads.predictions import come_true, draft
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.training.checkpoint import LoadedRun
from minimtp.training.evaluate import teacher_forced_acceptance

COLOURS = ("#7f8c8d", "#ca6f1e", "#2e86c1", "#a9dfbf", "#1e8449")
PLACES, BEFORE = 9, 18  # drafts that are shown, and the bytes before them


def draw(
    figure: object, guessed: dict, windows: np.ndarray, parallel: LoadedRun, conditioned: LoadedRun
) -> None:
    accuracy, acceptance, text = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for (name, tokens), colour in zip(guessed.items(), COLOURS, strict=True):
        depths = range(1, tokens.shape[-1] + 1)
        accuracy.plot(
            depths,
            come_true(tokens, windows).mean(axis=(0, 1)),
            "o-",
            color=colour,
            label=name,
            markersize=4,
        )
        shares = [share or 0.0 for share in teacher_forced_acceptance(tokens)]
        acceptance.plot(depths[:-1], shares, "o-", color=colour, label=name, markersize=4)
    accuracy.set(title="guesses that come true", xlabel="bytes ahead", ylim=(0, 1))
    accuracy.legend(fontsize=7, loc="upper right")
    acceptance.set(
        title="drafts that stand, given those before", xlabel="depth of the draft", ylim=(0, 1)
    )
    for axes in (accuracy, acceptance):
        axes.grid(alpha=0.3)

    text.set_axis_off()
    text.set_title("parallel (left) and token-conditioned (right)")
    length = windows.shape[1] - 1 - conditioned.model.depth
    rows = windows[:: max(1, len(windows) // PLACES)][:PLACES]
    xp = array_module(conditioned.model.trunk.embedding.weight.data)
    for column, run in enumerate((parallel, conditioned)):
        drafts = draft(run.model, xp.asarray(rows[:, :length]))  # (PLACES, 1 + K)
        for line, (row, ahead) in enumerate(zip(rows, drafts, strict=True)):
            y, true = 1 - (line + 1) / (PLACES + 1), row[length:]
            if column == 0:
                write(text, 0, y, run, row[max(0, length - BEFORE) : length], ["#7f8c8d"] * BEFORE)
            stands = np.cumprod(ahead == true)
            write(
                text,
                BEFORE + 1 + column * (len(ahead) + 2),
                y,
                run,
                ahead,
                ["#1e8449" if s else "#c0392b" for s in stands],
            )


def write(
    axes: object, start: int, y: float, run: LoadedRun, tokens: np.ndarray, colours: list[str]
) -> None:
    """Letters in a row, one a token, each in its colour."""
    for i, (token, colour) in enumerate(zip(tokens, colours, strict=False)):
        letter = run.tokenizer.decode([int(token)])
        shown = {" ": "·", "\n": "¶", "\t": "→"}.get(
            letter, letter if letter.isprintable() and letter else "?"
        )
        axes.text(
            (start + i) / 38,
            y,
            shown,
            color=colour,
            family="monospace",
            fontsize=10,
            transform=axes.transAxes,
        )
