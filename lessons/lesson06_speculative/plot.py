"""Lesson 6's plots: two overlapping distributions; accepted and rejected drafts, draft depths."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lessons.lesson06_speculative.measure import Measured
from minimtp.backend import numpy as np
from minimtp.decode.round import Round
from minimtp.training.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN, ROUNDS = 9, 15  # bytes of a distribution, rounds of a text
GREEN, RED, BLUE, ORANGE = "#1e8449", "#c0392b", "#2e86c1", "#ca6f1e"
BOX = {"facecolor": "#d6eaf8", "edgecolor": BLUE, "boxstyle": "square,pad=0.15"}
Results = dict[int, tuple[dict[str, Measured], dict[int, Measured]]]  # by rule, by depth


def draw(figure: "Figure", found: Results, tokenizer: Tokenizer) -> None:
    """Draw the rounds of a text, and the speed by draft depth. found: by temperature."""
    drafts, depths = figure.subplots(1, 2, width_ratios=(1.1, 0.9))
    draw_rounds(drafts, found[1][0]["token rule"].rounds[0][:ROUNDS], tokenizer)
    for temperature, marker in ((0, "o-"), (1, "s--")):
        draw_depths(depths, found[temperature][1], marker, f"temperature {temperature}")
    depths.set(title="tokens per pass, and speed-up", xlabel="drafts per pass, K")
    depths.legend(fontsize=8)
    depths.grid(alpha=0.3)


def draw_distributions(
    figure: "Figure", p: np.ndarray, q: np.ndarray, tokenizer: Tokenizer
) -> None:
    """Draw the distributions of one byte, at a place where about 60 % of the drafts are accepted.

    p, q (P, V): distributions of model and head for the same bytes.
    """
    place = int(np.argmin(np.abs(np.minimum(p, q).sum(axis=-1) - 0.6)))
    p, q, axes = p[place], q[place], figure.subplots()
    tokens = np.argsort(-np.maximum(p, q), kind="stable")[:SHOWN]
    both, places = np.minimum(p, q)[tokens], np.arange(SHOWN)
    axes.bar(places, both, color=GREEN, label="both: accepted drafts")
    axes.bar(places, p[tokens] - both, bottom=both, color=BLUE, label="model only: replacements")
    rejected = {"color": RED, "alpha": 0.45, "label": "head only: rejected drafts"}
    axes.bar(places, q[tokens] - both, bottom=both, **rejected)
    labels = [visible(tokenizer, token) for token in tokens]
    axes.set_xticks(places, labels, family="monospace")
    axes.set(title="two distributions of one byte", xlabel="next byte", ylabel="probability")
    axes.legend(fontsize=8)


def draw_rounds(axes: "Axes", rounds: Sequence[Round], tokenizer: Tokenizer) -> None:
    """Write one line per round: accepted drafts, the model's own byte, rejected drafts."""
    for row, round_ in enumerate(rounds):
        axes.text(0, -row, f"{round_.position}", color="grey", ha="right", va="center", fontsize=8)
        accepted = round_.accepted
        for column, token in enumerate(round_.drafts):
            is_accepted = column < accepted
            x = 1 + column if is_accepted else 2.6 + column  # rejected: after the model's byte
            color = GREEN if is_accepted else RED
            write(axes, x, -row, visible(tokenizer, token), color=color)
        own = visible(tokenizer, round_.tokens[-1])
        write(axes, 1 + accepted, -row, own, color=BLUE, bbox=BOX)
    deepest = max(len(round_.drafts) for round_ in rounds)
    axes.set_title("green: accepted; red: rejected;\nblue: the model's own byte", fontsize=11)
    axes.set(xlim=(-1.5, deepest + 3), ylim=(-ROUNDS, 1))
    axes.set_axis_off()


def draw_depths(axes: "Axes", by_depth: dict[int, Measured], marker: str, label: str) -> None:
    """Draw tokens per pass and the speed-up. by_depth[0] is plain decoding of the same texts."""
    tokens = [found.tokens_per_pass for found in by_depth.values()]
    plain = by_depth[0].tokens_per_second
    speedups = [found.tokens_per_second / plain for found in by_depth.values()]
    axes.plot([*by_depth], tokens, marker, color=BLUE, label=f"tokens per pass, {label}")
    axes.plot([*by_depth], speedups, marker, color=ORANGE, label=f"speed-up, {label}")


def write(axes: "Axes", x: float, y: float, letter: str, **style: object) -> None:
    axes.text(x, y, letter, family="monospace", ha="center", va="center", **style)


def visible(tokenizer: Tokenizer, token: int) -> str:
    """Return the byte as a character, with a dot for a space and an arrow for a newline."""
    text = tokenizer.decode([int(token)])
    return {" ": "·", "\n": "↵"}.get(text, text if text.isprintable() else "?")
