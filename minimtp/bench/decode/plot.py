"""The plot of `minimtp bench decode`: speed-ups, prediction, acceptance by depth, and c(T)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.bench.decode.report import Row, variants_and_rules
from minimtp.bench.decode.variants import PLAIN
from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Distinguishable with colour blindness too.
COLORS = ("#0072b2", "#e69f00", "#a8123c", "#009e73", "#56b4e9", "#cc79a7")


def draw(result: Mapping[str, object], path: Path) -> Path | None:
    """Save the plot and return its path, or return None if it cannot be drawn."""
    rows = [row for row in result["rows"] if row["variant"] != PLAIN]
    lines = len(variants_and_rules(rows))
    size = (15, 4.4 + 0.24 * lines)
    seconds = result["seconds_per_pass"]
    return save_plot(path, lambda figure: _draw(figure, rows, lines, seconds), size, dpi=80)


def _draw(figure: "Figure", rows: Sequence[Row], lines: int, seconds: Sequence[float]) -> None:
    texts = list(dict.fromkeys(row["text"] for row in rows))
    upper, lower = figure.subfigures(2, 1, height_ratios=(1 + 0.24 * lines, 3.4))
    panels = upper.subplots(1, len(texts), sharey=True, squeeze=False)[0]
    predicted, acceptance, costs = lower.subplots(1, 3)
    _draw_speedups(panels, texts, rows)
    _draw_predictions(predicted, texts, rows)
    _draw_acceptance(acceptance, texts, rows)
    _draw_costs(costs, seconds)
    for axes in (*panels, predicted, acceptance, costs):
        axes.grid(alpha=0.3)


def _draw_speedups(panels: Sequence["Axes"], texts: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw a panel per text: speed-ups with the middle half of their ratios, by temperature."""
    pairs = variants_and_rules(rows)
    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    for panel, text in zip(panels, texts, strict=True):
        for temperature, color in zip(temperatures, COLORS, strict=False):
            seen = [r for r in rows if (r["text"], r["temperature"]) == (text, temperature)]
            places = [pairs.index((row["variant"], row["rule"])) for row in seen]
            middle = [row["speedup"] for row in seen]
            below = [row["speedup"] - row["speedup_low"] for row in seen]
            above = [row["speedup_high"] - row["speedup"] for row in seen]
            panel.errorbar(
                middle,
                places,
                xerr=[below, above],
                fmt="o",
                color=color,
                capsize=2,
                label=f"temperature {temperature:g}",
            )
        panel.axvline(1, color="black", linewidth=1)
        panel.set(title=text, xlabel="speed-up over plain decoding")
    panels[0].set_yticks(range(len(pairs)), [", ".join(pair) for pair in pairs], fontsize=9)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=8)


def _draw_predictions(axes: "Axes", texts: Sequence[str], rows: Sequence[Row]) -> None:
    for text, color in zip(texts, COLORS, strict=False):
        seen = [row for row in rows if row["text"] == text]
        x = [row["predicted_speedup"] for row in seen]
        y = [row["speedup"] for row in seen]
        axes.plot(x, y, "o", color=color, markersize=4, alpha=0.7, label=text)
    ends = [0, 1.05 * max(max(row["predicted_speedup"], row["speedup"]) for row in rows)]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set(xlabel="predicted from c(T) and acceptance", ylabel="measured", title="speed-up")
    axes.set(xlim=ends, ylim=ends)
    axes.legend(fontsize=8)


def _draw_acceptance(axes: "Axes", texts: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw the first variant's acceptance by depth, at the lowest and the highest temperature."""
    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    lines = zip((temperatures[0], temperatures[-1]), ("o-", "o--"), strict=True)
    for temperature, line in lines:
        for text, color in zip(texts, COLORS, strict=False):
            place = (text, temperature)
            row = next(r for r in rows if (r["text"], r["temperature"]) == place)
            shares = [share for share in row["acceptance"] if share is not None]
            label = f"{text}, temperature {temperature:g}"
            depths = range(1, len(shares) + 1)
            axes.plot(depths, shares, line, color=color, markersize=4, label=label)
    first = variants_and_rules(rows)[0][0]
    axes.set(xlabel="draft depth", ylabel="accepted / drafted", ylim=(0, 1.02))
    axes.set(title=f"acceptance: {first}")
    axes.legend(fontsize=8)


def _draw_costs(axes: "Axes", passes: Sequence[float]) -> None:
    relative = [seconds / passes[0] for seconds in passes]
    axes.plot(range(1, len(passes) + 1), relative, "o-", color=COLORS[0], markersize=4)
    axes.set(xlabel="T, tokens per forward pass", ylabel="c(T) / c(1)", ylim=0)
    axes.set(title="cost of a forward pass")
