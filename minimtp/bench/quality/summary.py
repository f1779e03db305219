"""The figures of the quality table, from the cells of all seeds.

A loss is a branch's held-out loss minus that of the control with the same seed, in nats.
**Recovered** is the share of round-to-nearest's loss that a method avoids: (rtn - method) / (rtn -
fp), means over the seeds. Intervals are 95 % over seeds (Student's t). They describe the
variation between seeds, not between texts.
"""

import statistics
from collections.abc import Mapping, Sequence

from minimtp.bench.quality.cells import FP

# 97.5 % quantiles of Student's t, by degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MAX_SEEDS = len(STUDENT) + 1
CellResult = Mapping[str, object]


def summary(cells: Sequence[CellResult]) -> list[dict[str, object]]:
    """The rows of the table: means, 95 % intervals, and the recovered share of rtn's loss."""
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
    """Share of `rtn_loss` that a method with `loss` avoids; None if rounding cost nothing."""
    return (rtn_loss - loss) / rtn_loss if rtn_loss > 0 else None


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean; None for a single value."""
    if len(values) < 2:
        return None
    return STUDENT[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5
