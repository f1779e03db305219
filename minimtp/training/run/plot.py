"""Plot the loss curve of a run into its folder (plots.py)."""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.plots import save_plot
from minimtp.quoting import shown_path
from minimtp.training.run.log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE_NAME = "loss.png"
MEMORY = 0.95  # of the moving average, the share that a step keeps of the steps before it


def draw_losses(folder: str | Path) -> Path | None:
    """Draw the log into loss.png: one line per depth, in nats per token.

    Returns the path of the plot, or None if it cannot be drawn.
    """
    return save_plot(Path(folder, FILE_NAME), lambda figure: _draw(figure, folder), (8, 4.5))


def _draw(figure: "Figure", folder: str | Path) -> None:
    log = read_log(folder)
    steps = [line for line in log if line.get("losses")]
    evaluations = [line for line in log if line.get("evaluation")]
    axes = figure.subplots()
    for depth in range(max((len(line["losses"]) for line in steps), default=0)):
        trained = [line for line in steps if _loss(line, depth) is not None]
        tokens = [line["tokens"] for line in trained]
        losses = _smoothed([line["losses"][depth] for line in trained])
        label = "next token" if depth == 0 else f"+{depth + 1}"
        axes.plot(tokens, losses, label=label, linewidth=1)
    if evaluations:
        tokens = [line["tokens"] for line in evaluations]
        nats = [line["evaluation"]["nats"][0] for line in evaluations]
        axes.plot(tokens, nats, "k.", label="next token, held out")
    axes.set(xlabel="tokens seen", ylabel="loss, nats per token")
    axes.set_title(shown_path(Path(folder).name), parse_math=False)  # a name may contain $
    axes.grid(alpha=0.3)
    if steps or evaluations:
        axes.legend(ncols=2, fontsize="small")


def _loss(line: dict, depth: int) -> float | None:
    """Return the loss at a depth, None if the line has none."""
    return line["losses"][depth] if depth < len(line["losses"]) else None


def _smoothed(values: list[float]) -> list[float]:
    """Return the exponential moving average, with bias correction for the first values."""
    mean, weight, smooth = 0.0, 0.0, []
    for value in values:
        mean = MEMORY * mean + (1 - MEMORY) * value
        weight = MEMORY * weight + (1 - MEMORY)
        smooth.append(mean / weight)
    return smooth
