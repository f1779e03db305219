"""Predicted beside published: how far the roofline can be trusted. The numbers are in
published.toml, with their sources.
"""

import statistics
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from msgspec import Struct, convert

from minimtp.bench.table_text import aligned
from minimtp.plan.costs.cost import Roofline
from minimtp.plan.costs.memory import Drafter
from minimtp.plan.costs.sizes import Precision, hardware, model
from minimtp.plan.costs.speculation import Acceptance, constant_acceptance, round_of


class Published(Struct, frozen=True, forbid_unknown_fields=True):
    """A published table; see published.toml."""

    title: str
    source: str
    quantity: str
    hardware: str
    model: str
    by: str
    context: int
    rows: list[tuple[float, float]]
    devices: int = 1
    drafts: int = 0
    tokens: float = 1.0
    draft_vocabulary: int | None = None
    why: str = ""
    sets: bool = False


@dataclass(frozen=True)
class Compared:
    """A predicted and a published value. at: requests at a time, bits or devices."""

    table: Published
    at: float
    published: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1


@cache
def tables() -> list[Published]:
    content = (Path(__file__).parent / "published.toml").read_text(encoding="utf-8")
    return convert(tomllib.loads(content)["table"], list[Published])


def compare_with_published() -> list[Compared]:
    """Predict every published value."""
    return [
        Compared(table, at, value, _predict(table, at))
        for table in tables()
        for at, value in table.rows
    ]


def _predict(table: Published, at: float) -> float:
    bits = at if table.by == "bits" else 16
    # The 4-bit models keep 16-bit output matrices.
    cost = Roofline(
        model(table.model),
        Precision(bits, 8 if bits == 8 else 16),
        hardware(table.hardware),
        Drafter(1, table.draft_vocabulary),
        devices=int(at) if table.by == "devices" else table.devices,
    )
    batch = int(at) if table.by == "requests" else 1
    never = Acceptance((0.0,))
    plain = round_of(cost, never, batch, table.context, 0)
    if table.quantity == "tokens/s":
        return plain.tokens_per_second
    accepted = Acceptance((constant_acceptance(table.tokens, table.drafts),))
    drafting = round_of(cost, accepted, batch, table.context, table.drafts)
    return drafting.tokens_per_second / plain.tokens_per_second


def errors_in_words(compared: list[Compared]) -> str:
    """Return the median and the largest error of the absolute values."""
    errors = [abs(c.error) for c in compared]
    return f"median error {statistics.median(errors):.0%}, largest {max(errors):.0%}"


def in_words() -> str:
    """Return the tables, each with its source and the reason for its misses."""
    lines, compared = [], compare_with_published()
    for table in tables():
        rows = [c for c in compared if c.table is table]
        digits = 1 if table.quantity == "tokens/s" else 2
        cells = [
            [
                f"{c.at:g} {table.by}",
                f"{c.published:.{digits}f}",
                f"{c.predicted:.{digits}f}",
                f"{c.error:+.0%}",
            ]
            for c in rows
        ]
        used = "; sets two constants, so this is no test" if table.sets else ""
        lines += [f"{table.title} ({table.quantity}{used})", f"  {table.source}"]
        text = aligned([["", "published", "predicted", "error"], *cells], False)
        lines += [f"  {line}" for line in text.splitlines()]
        if table.why:
            lines.append(f"  {table.why}")
        lines.append("")
    return "\n".join([*lines, *totals()])


def markdown() -> str:
    """Return a row per published table: the published values, each with the predicted one."""
    compared = compare_with_published()
    lines = [["source", "", "published (predicted)"]]
    for table in tables():
        chosen = [c for c in compared if c.table is table]
        values = ", ".join(f"{c.at:g}: {c.published:.3g} ({c.predicted:.3g})" for c in chosen)
        note = "; sets two constants" if table.sets else ""
        lines.append([table.title, f"{table.quantity}{note}", f"{table.by} {values}"])
    return aligned(lines, True)


def totals() -> list[str]:
    """Return the errors over all values that set no constant, by quantity."""
    compared = compare_with_published()
    lines = []
    for quantity in ("tokens/s", "speed-up"):
        chosen = [c for c in compared if c.table.quantity == quantity and not c.table.sets]
        lines.append(f"{quantity}: {len(chosen)} values, {errors_in_words(chosen)}")
    return lines


def as_json() -> list[dict[str, object]]:
    """Return every value as JSON values."""
    return [
        {
            "title": c.table.title,
            "source": c.table.source,
            "quantity": c.table.quantity,
            c.table.by: c.at,
            "published": c.published,
            "predicted": c.predicted,
            "sets_constants": c.table.sets,
        }
        for c in compare_with_published()
    ]
