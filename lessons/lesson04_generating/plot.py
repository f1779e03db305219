"""Lesson 4's picture: what a byte costs, which rows are computed, and what temperature and top-p do to a law."""

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.runtime import ModelRunner
from minimtp.decode.sampling import SamplingParams
from minimtp.training.checkpoint import LoadedRun

COLOURS = ("#ca6f1e", "#d4ac0d", "#1e8449")
SHOWN = 12  # bytes of a law


def draw(figure: object, seconds: dict[str, list[float]], run: LoadedRun, before: str) -> None:
    cost, rows, laws = figure.subplots(1, 3)
    for (way, times), colour in zip(seconds.items(), COLOURS, strict=True):
        undisturbed = [1e3 * min(times[max(0, i - 4) : i + 5]) for i in range(len(times))]
        cost.semilogy(undisturbed, color=colour, label=way)
    cost.axvline(run.recipe.context_length, color="grey", linestyle=":")
    cost.set(
        title="one more byte",
        xlabel="bytes before it (dotted: the model's context)",
        ylabel="milliseconds",
    )
    cost.set_ylim(top=1e4 * max(map(max, seconds.values())))  # room for the legend
    cost.legend(fontsize=7)
    cost.grid(alpha=0.3)

    steps = 16
    again = np.tri(steps) - np.eye(steps)
    rows.imshow(np.where(again > 0, 1.0, np.nan), cmap="Oranges", vmin=0, vmax=2)
    rows.imshow(np.where(np.eye(steps) > 0, 1.0, np.nan), cmap="Greens", vmin=0, vmax=1.4)
    rows.set(
        title="rows that a step computes", xlabel="position", ylabel="step", xticks=[], yticks=[]
    )
    rows.text(
        0.96, 0.9, "new: with a cache, all", color="#1e8449", ha="right", transform=rows.transAxes
    )
    rows.text(
        0.06,
        0.1,
        "known already:\ncomputed again\nwithout a cache",
        color="black",
        transform=rows.transAxes,
    )

    runtime = ModelRunner(run.model)
    logits = runtime.forward(run.tokenizer.encode(before)).logits[-1:]
    likeliest = to_numpy(-logits[0]).argsort(kind="stable")[:SHOWN]
    variants = {
        "temperature 0.5": SamplingParams(0.5),
        "temperature 1": SamplingParams(),
        "temperature 1, top-p 0.9": SamplingParams(top_p=0.9),
    }
    for i, (name, law) in enumerate(variants.items()):
        shares = to_numpy(law.probabilities(logits))[0][likeliest]
        laws.bar(
            np.arange(SHOWN) + (i - 1) * 0.28,
            shares,
            0.28,
            label=name,
            color=("#2e86c1", "#7f8c8d", "#1e8449")[i],
        )
    laws.set_xticks(
        range(SHOWN),
        [repr(run.tokenizer.decode([token]))[1:-1] for token in likeliest],
        family="monospace",
    )
    laws.set(title=f'what follows "{before}"', xlabel="next byte", ylabel="probability")
    laws.legend(fontsize=8)
