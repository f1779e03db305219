"""Compute the numbers in the quality table from the cells of all seeds.

The column "loss" is the held-out loss of a branch minus the held-out loss of the control with the
same seed, in nats. **Recovered** is the share of the loss of rounding to nearest (rtn) that a
method avoids: (rtn - method) / (rtn - fp), computed from means over the seeds. The 95 % intervals
(Student's t) describe the variation between seeds, not between texts.
"""

import statistics
from collections.abc import Mapping, Sequence

from minimtp.bench.quality.cells import FP

# 97.5 % quantiles of Student's t, by degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MAX_SEEDS = len(STUDENT) + 1
CellResult = Mapping[str, object]


def summary(cells: Sequence[CellResult]) -> list[dict[str, object]]:
    """Return the rows of the table: means, 95 % intervals, and the recovered share."""
    by_row: dict[tuple[int, str], list[CellResult]] = {}
    for cell in cells:
        by_row.setdefault((cell["bits"], cell["method"]), []).append(cell)
    control = {cell["seed"]: cell["nats"] for cell in by_row[32, FP]}
    losses = {
        key: [member["nats"] - control[member["seed"]] for member in members]
        for key, members in by_row.items()
    }
    found = []
    for (bits, method), members in by_row.items():
        lost = losses[bits, method]
        row = {
            "bits": bits, "method": method,
            "nats": statistics.mean(member["nats"] for member in members),
            "loss": statistics.mean(lost), "interval": half_interval(lost), "losses": lost,
            "bits_per_weight": members[0]["bits_per_weight"], "bytes": members[0]["bytes"],
            "seconds": statistics.mean(member["seconds"] for member in members),
        }  # fmt: skip
        if (bits, "rtn") in losses:
            row["recovered"] = recovered(statistics.mean(losses[bits, "rtn"]), row["loss"])
        found.append(row)
    return found


def recovered(rtn_loss: float, loss: float) -> float | None:
    """Return the share of `rtn_loss` that a method with `loss` avoids; None if rtn lost nothing."""
    return (rtn_loss - loss) / rtn_loss if rtn_loss > 0 else None


def half_interval(values: Sequence[float]) -> float | None:
    """Return half the width of the 95 % interval of the mean, or None for a single value."""
    if len(values) < 2:
        return None
    return STUDENT[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5
