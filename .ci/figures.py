"""Draw the figures of README.md, data/results/README.md and lesson 11, from the JSON files in
data/results.

python .ci/figures.py
"""

import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minimtp.bench.decode import plot as decoding
from minimtp.bench.kernels import plot as kernels
from minimtp.bench.quality import report as quality
from minimtp.compare.pretrained import plot as pretrained
from minimtp.plan import plot as planning
from minimtp.plan.candidates import candidates
from minimtp.plan.costs.sizes import hardware, model
from minimtp.plan.planning import make_plan
from minimtp.plan.settings import Settings

RESULTS = Path(__file__).resolve().parent.parent / "data" / "results"
SHOWN = ("standard", "mtp", "mtp_qat_int4")
LABELS = ("standard", "prediction\nheads (MTP)", "MTP + 4-bit\nweights (QAT)")
COLOURS = ("#7f8c8d", "#2e86c1", "#1e8449")


def bars(axes: Axes, title: str, values: list[float], texts: list[str]) -> None:
    """One bar per configuration, with its text above it."""
    axes.bar(range(len(values)), values, 0.6, color=COLOURS)
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        offset = (0, 4)
        axes.annotate(
            text, (place, value), offset, textcoords="offset points", ha="center", fontsize=12
        )
    axes.set_title(title, fontsize=13)
    axes.set_xticks(range(len(values)), LABELS, fontsize=11)
    axes.set_yticks([])
    axes.set_ylim(0, 1.18 * max(values))
    axes.spines[["left", "right", "top"]].set_visible(False)


def draw_comparison(figure: Figure, result: dict) -> None:
    by_name = {c["name"]: c for c in result["configurations"]}
    chosen = [by_name[name] for name in SHOWN]
    figure.get_layout_engine().set(wspace=0.08)
    speed, memory, quality = figure.subplots(1, 3)
    speeds = [c["tokens_per_second"] for c in chosen]
    texts = [f"{c['tokens_per_second']:,.0f}\n{c['speedup']:.1f}x" for c in chosen]
    bars(speed, "tokens per second", speeds, [texts[0].split("\n")[0], *texts[1:]])
    speed.set_ylim(0, 1.3 * max(speeds))
    megabytes = [c["peak_memory_bytes"] / 1e6 for c in chosen]
    bars(memory, "memory while decoding", megabytes, [f"{value:.1f} MB" for value in megabytes])
    percent = [c["quality_percent"] for c in chosen]
    bars(quality, "quality on unseen text", percent, [f"{value:.1f} %" for value in percent])


def measured(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    result = measured("compare-laptop")
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    draw_comparison(figure, result)
    figure.savefig(RESULTS / "compare-laptop.png", dpi=110)
    decoding.draw(measured("bench-decode"), RESULTS / "bench-decode.png")
    kernels.draw(measured("bench-kernels"), RESULTS / "bench-kernels.png")
    quality.draw(measured("quality-quick")["rows"], RESULTS / "quality.png")
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    pretrained.draw(figure, measured("smollm2")["configurations"])
    lesson = RESULTS.parent.parent / "lessons" / "lesson11_real_model"
    figure.savefig(lesson / "plot.png", dpi=90)
    card, size, settings = hardware("h100"), model("8b"), Settings()
    plan = make_plan(candidates(size, card, settings), card, settings, with_service=False)
    planning.draw_plan(plan, f"{size.title} on {card.title}", RESULTS)
