"""The comparison on a pretrained model as a figure (plots.py)."""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.compare.result_cache import Figures
from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE_NAME = "compare.png"
COLOURS = {  # by configuration
    "standard": "#7f8c8d",
    "mtp": "#2e86c1",
    "int4_rtn": "#ca6f1e",
    "int4_gptq": "#b7950b",
    "mtp_qat_int4": "#1e8449",
    "llama_cpp_q4_0": "#884ea0",
}


def draw_comparison(result: Figures, folder: Path) -> Path | None:
    """Draw compare.png into the folder. Return None if it cannot be drawn."""
    configurations = result["configurations"]
    return save_plot(folder / FILE_NAME, lambda figure: draw(figure, configurations), (14, 4.6))


def draw(figure: "Figure", configurations: list[Figures]) -> None:
    """Draw the speed, the loss of nats and the KL divergence side by side, by kind of text."""
    speed, loss, divergence = figure.subplots(1, 3)
    _bars(speed, configurations, "tokens_per_second", "decoding speed", "tokens per second")
    rounded = [c for c in configurations if c.get("kl") and any(c["kl"].values())]
    lost = [
        c | {"loss": {kind: 100.0 * (100.0 / q - 1.0) for kind, q in c["quality_percent"].items()}}
        for c in rounded
    ]
    _bars(loss, lost, "loss", "what rounding costs", "increase of nats over float32, %")
    _bars(divergence, rounded, "kl", "distance from float32", "KL divergence from float32, nats")
    handles, labels = speed.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _bars(axes: "Axes", configurations: list[Figures], key: str, title: str, label: str) -> None:
    """Draw groups of bars: a group for each kind of text, a bar for each configuration."""
    kinds = list(dict.fromkeys(kind for c in configurations for kind in c.get(key, ())))
    width = 0.8 / max(1, len(configurations))
    for i, configuration in enumerate(configurations):
        places = [g + (i - (len(configurations) - 1) / 2) * width for g in range(len(kinds))]
        values = [configuration[key].get(kind, 0.0) for kind in kinds]
        axes.bar(
            places,
            values,
            width,
            color=COLOURS[configuration["name"]],
            label=configuration["title"],
        )
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set(title=title, ylabel=label)
    axes.grid(alpha=0.3, axis="y")
