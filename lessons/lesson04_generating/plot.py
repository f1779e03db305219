"""Lesson 4's plot: time per byte, and a distribution at three settings."""

from statistics import median
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


def draw(
    figure: "Figure", seconds: dict[str, list[float]], first: int, run: LoadedRun, prompt: str
) -> None:
    """Draw the two parts. seconds: the time for each byte, by generator. first: bytes before the
    first of these. prompt: the text before the distributions.
    """
    cost, distribution = figure.subplots(1, 2)
    for (name, times), colour in zip(seconds.items(), COLOURS, strict=True):
        # The median of the neighbouring bytes: on a busy machine, some are slowed down.
        smooth = [1e3 * median(times[max(0, i - 12) : i + 13]) for i in range(len(times))]
        cost.semilogy(range(first, first + len(smooth)), smooth, color=colour, label=name)
    cost.axvline(run.recipe.context_length, color="grey", linestyle=":")
    cost.set(title="time for one more byte", ylabel="milliseconds")
    cost.set_xlabel("bytes before it (dotted: the context length)")
    cost.set_ylim(top=5e3 * sorted(max(seconds.values(), key=max))[-5])  # room for the legend
    cost.legend(fontsize=9, loc="upper left")
    cost.grid(alpha=0.3)
    draw_distributions(distribution, run, prompt)


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
    axes.legend(fontsize=9)
