"""The comparison as a figure (plots.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.compare.result_cache import Figures
from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE_NAME = "compare.png"
COLOURS = ("#7f8c8d", "#2e86c1", "#1e8449", "#ca6f1e")  # by configuration
TEMPERATURES = (("", "temperature 0"), ("_t1", "temperature 1"))  # suffix of the results' names


def draw_comparison(result: Figures, folder: Path) -> Path | None:
    """Draw compare.png into the folder. Return None if it cannot be drawn."""
    configurations = result["configurations"]
    return save_plot(folder / FILE_NAME, lambda figure: draw(figure, configurations), (14, 4.2))


def draw(figure: "Figure", configurations: Sequence[Figures]) -> None:
    """Draw speed, size and quality, and acceptance by draft depth, side by side."""
    speed, quality, acceptance = figure.subplots(1, 3)
    _draw_speed(speed, configurations)
    _draw_quality(quality, configurations)
    _draw_acceptance(acceptance, configurations)
    for axes in (speed, quality, acceptance):
        axes.grid(alpha=0.3)
    handles, labels = quality.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _draw_speed(axes: "Axes", configurations: Sequence[Figures]) -> None:
    """Draw bars with the speed-up above them and the range over the repeats. Temperature 1 has pale
    bars.
    """
    for shift, alpha, (suffix, _) in zip((-0.2, 0.2), (1.0, 0.5), TEMPERATURES, strict=True):
        for i, (c, colour) in enumerate(zip(configurations, COLOURS, strict=False)):
            value = c[f"tokens_per_second{suffix}"]
            slowest = c[f"tokens_per_second_slowest{suffix}"]
            fastest = c[f"tokens_per_second_fastest{suffix}"]
            spread = [[value - slowest], [fastest - value]]
            axes.bar(i + shift, value, 0.38, color=colour, alpha=alpha, yerr=spread, capsize=2)
            axes.annotate(
                f"{c[f'speedup{suffix}']:.2f}x",
                (i + shift, fastest),
                (0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
    titles = [c["title"].replace(", ", ",\n").replace(" + ", " +\n") for c in configurations]
    axes.set_xticks(range(len(titles)), titles, fontsize=9)
    axes.set(ylabel="tokens per second", title="decoding speed (pale: temperature 1)")
    axes.margins(y=0.1)


def _draw_quality(axes: "Axes", configurations: Sequence[Figures]) -> None:
    """Draw a bar for the size of each configuration, with its size and quality beside it."""
    sizes = [c["weight_bytes"] / 1e6 for c in configurations]
    for i, (c, size, colour) in enumerate(zip(configurations, sizes, COLOURS, strict=False)):
        axes.barh(i, size, 0.6, color=colour, label=c["title"])
        axes.annotate(
            f"{size:.2f} MB\nquality {c['quality_percent']:.2f} %",
            (size, i),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set(xlabel="weights in MB", title="size and quality", yticks=[])
    axes.set_xlim(0, 1.5 * max(sizes))
    axes.invert_yaxis()


def _draw_acceptance(axes: "Axes", configurations: Sequence[Figures]) -> None:
    for c, colour in zip(configurations, COLOURS, strict=False):
        for (suffix, _), line in zip(TEMPERATURES, ("o-", "o--"), strict=True):
            shares = [share for share in c[f"acceptance{suffix}"] if share is not None]
            if shares:
                depths = range(1, len(shares) + 1)
                axes.plot(depths, shares, line, color=colour, markersize=4)
    axes.set(
        xlabel="position in the draft",
        ylabel="accepted share of the drafted tokens",
        ylim=(0, 1),
        title="acceptance (dashed: temperature 1)",
    )
