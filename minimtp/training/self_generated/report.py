"""The table of `minimtp selfgen`: what was generated, and what was dropped."""

from minimtp.backend import numpy as np
from minimtp.training.self_generated.generate import Generated
from minimtp.training.self_generated.mixture import KINDS
from minimtp.training.self_generated.stored import SelfGenerated, Tally

GRAM = 4  # tokens
COLUMNS = ("kind", "texts", "new tokens", "share", "kept", "loops", "duplicates",
           "distinct 4-grams")  # fmt: skip


def table(found: SelfGenerated) -> list[str]:
    """Return the lines of the table. Shares of what is kept and dropped are of the new tokens."""
    kinds, total = found.kinds, max(1, found.kept)
    rows = [COLUMNS]
    for kind in sorted(kinds, key=KINDS.index):
        rows.append(_row(kind, kinds[kind], total, distinct_grams(found, kind)))
    if len(kinds) > 1:
        together = sum(kinds.values(), Tally())
        rows.append(_row("all", together, total, distinct_grams(found)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def speed(done: Generated, threads: int, grid: str) -> str:
    """Return a line about the speed of this command."""
    if not done.tokens:
        return "nothing was missing"
    rate = done.tokens / max(done.seconds, 1e-9)
    return (
        f"{done.tokens:,} new tokens in {done.seconds:,.0f} s: {rate:,.0f} tokens/s with "
        f"{threads} thread{'s' * (threads != 1)}, weights {grid}"
    )


def distinct_grams(found: SelfGenerated, kind: str | None = None) -> float:
    """Return the share of different ones among all runs of four new tokens."""
    grams = [
        np.lib.stride_tricks.sliding_window_view(np.array(answer, np.int64), GRAM)
        for text in found.texts
        if kind in (None, text.kind)
        for answer in text.answers
        if len(answer) >= GRAM
    ]
    if not grams:
        return 1.0
    every = np.ascontiguousarray(np.concatenate(grams))
    return len(np.unique(every, axis=0)) / len(every)


def _row(kind: str, tally: Tally, total: int, distinct: float) -> tuple[str, ...]:
    new = max(1, tally.new_tokens)
    shares = (tally.kept / total, tally.kept / new, tally.loops / new, tally.duplicates / new)
    return (
        kind,
        f"{tally.kept_texts:,}",
        f"{tally.kept:,}",
        *(f"{100 * share:.1f} %" for share in (*shares, distinct)),
    )
