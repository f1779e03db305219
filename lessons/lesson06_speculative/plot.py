"""Lesson 6's picture: two laws that overlap, drafts that stood and fell, and what a deeper draft brings."""

from minimtp.backend import numpy as np
from minimtp.training.data.tokenizer import Tokenizer

SHOWN, ROUNDS = 9, 15  # bytes of a law, rounds of a text
GREEN, RED, BLUE, GOLD = "#1e8449", "#c0392b", "#2e86c1", "#ca6f1e"


def draw(
    figure: object, p: np.ndarray, q: np.ndarray, written: dict[int, dict], tokenizer: Tokenizer
) -> None:
    laws, story, depths = figure.subplots(1, 3, width_ratios=(1, 1.1, 0.9))
    place = int(
        np.argmin(np.abs(np.minimum(p, q).sum(axis=-1) - 0.6))
    )  # where much stands and much falls
    p, q = p[place], q[place]
    tokens = np.argsort(-np.maximum(p, q), kind="stable")[:SHOWN]
    both, places = np.minimum(p, q)[tokens], np.arange(SHOWN)
    laws.bar(places, both, color=GREEN, label="both: a draft that stands")
    laws.bar(
        places, p[tokens] - both, bottom=both, color=BLUE, label="the model's alone: what is left"
    )
    laws.bar(
        places,
        q[tokens] - both,
        bottom=both,
        color=RED,
        alpha=0.45,
        label="the head's alone: rejected",
    )
    laws.set_xticks(
        places, [repr(tokenizer.decode([int(token)]))[1:-1] for token in tokens], family="monospace"
    )
    laws.set(title="the laws of one byte", xlabel="next byte", ylabel="probability")
    laws.legend(fontsize=8)

    rounds = written[1]["shared noise"].rounds[0][1 : 1 + ROUNDS]
    longest = max(len(round_.drafts) for round_ in rounds)
    for row, round_ in enumerate(rounds):
        story.text(0, -row, f"{round_.position}", color="grey", ha="right", va="center", fontsize=8)
        fell = round_.accepted  # the place in the draft where the model's own byte stands
        for column, token in enumerate(round_.drafts):
            colour, place = (
                (GREEN, column) if column < fell else (RED, column + 1.6)
            )  # behind the model's own
            write(story, 1 + place, -row, visible(tokenizer, token), color=colour)
        box = {"facecolor": "#d6eaf8", "edgecolor": BLUE, "boxstyle": "square,pad=0.15"}
        write(story, 1 + fell, -row, visible(tokenizer, round_.tokens[-1]), color=BLUE, bbox=box)
    story.set(
        title="green stood, blue is the model's, red fell",
        xlim=(-1.5, longest + 3),
        ylim=(-ROUNDS, 1),
    )
    story.set_axis_off()

    for temperature, marker in ((0, "o-"), (1, "s--")):
        found = {key: value for key, value in written[temperature].items() if isinstance(key, int)}
        found[0] = written[temperature]["plain decoding"]
        deep = sorted(found)
        gains = [found[d].tokens_per_second / found[0].tokens_per_second for d in deep]
        label = f"temperature {temperature}"
        depths.plot(
            deep,
            [found[d].tokens_per_pass for d in deep],
            marker,
            color=BLUE,
            label=f"tokens a pass, {label}",
        )
        depths.plot(deep, gains, marker, color=GOLD, label=f"times as fast, {label}")
    depths.set(title="a deeper draft", xlabel="drafts a pass")
    depths.legend(fontsize=8)
    depths.grid(alpha=0.3)


def write(axes: object, x: float, y: float, letter: str, **look: object) -> None:
    axes.text(x, y, letter, family="monospace", ha="center", va="center", **look)


def visible(tokenizer: Tokenizer, token: int) -> str:
    """The byte, a blank as a dot and a new line as an arrow."""
    text = tokenizer.decode([int(token)])
    return {" ": "·", "\n": "↵"}.get(text, text if text.isprintable() else "?")
