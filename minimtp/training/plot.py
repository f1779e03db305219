"""The loss curve of a run, as a picture beside its log. Needs matplotlib (the extra `plots`); training does not need it."""

import importlib.util
import json
from pathlib import Path

PICTURE_NAME = "loss.png"


def draw_losses(folder: str | Path) -> Path | None:
    """Draw log.jsonl into loss.png: one line a depth, in nats per token. None where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "losses" in line]
    evaluations = [line for line in lines if "evaluation" in line]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for depth in range(len(steps[0]["losses"]) if steps else 0):
        seen = [
            (line["tokens"], line["losses"][depth])
            for line in steps
            if line["losses"][depth] is not None
        ]
        label = "next token" if depth == 0 else f"+{depth + 1}"
        axes.plot(
            [tokens for tokens, _ in seen],
            _smoothed([loss for _, loss in seen]),
            label=label,
            linewidth=1,
        )
    if evaluations:
        axes.plot([line["tokens"] for line in evaluations], [line["evaluation"]["nats"][0] for line in evaluations],
                  "k.", label="next token, held out")  # fmt: skip
    axes.set(xlabel="tokens seen", ylabel="loss, nats per token", title=Path(folder).name)
    axes.grid(alpha=0.3)
    if steps or evaluations:
        axes.legend(ncols=2, fontsize="small")
    path = Path(folder, PICTURE_NAME)
    figure.savefig(path, dpi=120)
    return path


def _smoothed(values: list[float], memory: float = 0.95) -> list[float]:
    """An exponential mean, which starts as a plain mean so that the first value does not dominate."""
    mean, weight, smooth = 0.0, 0.0, []
    for value in values:
        mean, weight = memory * mean + (1 - memory) * value, memory * weight + (1 - memory)
        smooth.append(mean / weight)
    return smooth
