"""Plot the loss curve of a run into its folder. Needs matplotlib (the extra `plots`)."""

import importlib.util
from pathlib import Path

from minimtp.training.run.log import read_log

FILE_NAME = "loss.png"


def draw_losses(folder: str | Path) -> Path | None:
    """Draw the log into loss.png: one line per depth, in nats per token.

    Returns the path of the plot, or None if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    log = read_log(folder)
    steps = [line for line in log if "losses" in line]
    evaluations = [line for line in log if "evaluation" in line]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for depth in range(len(steps[0]["losses"]) if steps else 0):
        trained = [line for line in steps if line["losses"][depth] is not None]
        tokens = [line["tokens"] for line in trained]
        losses = _smoothed([line["losses"][depth] for line in trained])
        label = "next token" if depth == 0 else f"+{depth + 1}"
        axes.plot(tokens, losses, label=label, linewidth=1)
    if evaluations:
        tokens = [line["tokens"] for line in evaluations]
        nats = [line["evaluation"]["nats"][0] for line in evaluations]
        axes.plot(tokens, nats, "k.", label="next token, held out")
    axes.set(xlabel="tokens seen", ylabel="loss, nats per token", title=Path(folder).name)
    axes.grid(alpha=0.3)
    if steps or evaluations:
        axes.legend(ncols=2, fontsize="small")
    path = Path(folder, FILE_NAME)
    figure.savefig(path, dpi=120)
    return path


def _smoothed(values: list[float], memory: float = 0.95) -> list[float]:
    """Return the exponential moving average, with bias correction for the first values."""
    mean, weight, smooth = 0.0, 0.0, []
    for value in values:
        mean = memory * mean + (1 - memory) * value
        weight = memory * weight + (1 - memory)
        smooth.append(mean / weight)
    return smooth
