"""Lesson 4's plot: time per byte, computed rows, and a distribution at three settings."""

from typing import TYPE_CHECKING

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.sampling.params import SamplingParams
from minimtp.training.run.folder import LoadedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#ca6f1e", "#d4ac0d", "#1e8449")
SHOWN = 12  # bytes of a distribution


def draw(figure: "Figure", seconds: dict[str, list[float]], run: LoadedRun, prompt: str) -> None:
    """Draw the three parts. seconds: the time for each byte, by generator."""
    cost, rows, distribution = figure.subplots(1, 3)
    for (name, times), colour in zip(seconds.items(), COLOURS, strict=True):
        smooth = [1e3 * min(times[max(0, i - 4) : i + 5]) for i in range(len(times))]
        cost.semilogy(smooth, color=colour, label=name)
    cost.axvline(run.recipe.context_length, color="grey", linestyle=":")
    cost.set(title="time for one more byte", ylabel="milliseconds")
    cost.set_xlabel("bytes before it (dotted: the context length)")
    cost.set_ylim(top=1e4 * max(map(max, seconds.values())))  # room for the legend
    cost.legend(fontsize=8)
    cost.grid(alpha=0.3)
    draw_rows(rows)
    draw_distributions(distribution, run, prompt)


def draw_rows(axes: "Axes", steps: int = 16) -> None:
    """Show the rows that each step computes with and without a cache."""
    new = np.eye(steps)
    again = np.tri(steps) - new
    axes.imshow(np.where(again > 0, 1.0, np.nan), cmap="Oranges", vmin=0, vmax=2)
    axes.imshow(np.where(new > 0, 1.0, np.nan), cmap="Greens", vmin=0, vmax=1.4)
    axes.set(title="rows computed per step", xlabel="position", ylabel="step", xticks=[], yticks=[])
    here = axes.transAxes
    axes.text(
        0.96,
        0.9,
        "new: all that\na cache needs",
        color="#1e8449",
        ha="right",
        va="top",
        transform=here,
    )
    axes.text(0.06, 0.1, "recomputed\nwithout a cache", color="black", transform=here)


def draw_distributions(axes: "Axes", run: LoadedRun, prompt: str) -> None:
    """Show the distribution of the byte after the prompt at three settings."""
    runner = ModelRunner(run.model)
    logits = runner.forward(run.tokenizer.encode(prompt)).logits[-1:]
    most_likely = to_numpy(-logits[0]).argsort(kind="stable")[:SHOWN]
    settings = {
        "temperature 0.5": SamplingParams(0.5),
        "temperature 1": SamplingParams(),
        "temperature 1, top-p 0.9": SamplingParams(top_p=0.9),
    }
    colours = ("#2e86c1", "#7f8c8d", "#1e8449")
    for i, (name, sampling) in enumerate(settings.items()):
        probabilities = to_numpy(sampling.probabilities(logits))[0][most_likely]
        places = np.arange(SHOWN) + (i - 1) * 0.28
        axes.bar(places, probabilities, 0.28, label=name, color=colours[i])
    labels = [repr(run.tokenizer.decode([token]))[1:-1] for token in most_likely]
    axes.set_xticks(range(SHOWN), labels, family="monospace")
    axes.set(title=f'the byte after "{prompt}"', xlabel="next byte", ylabel="probability")
    axes.legend(fontsize=8)
