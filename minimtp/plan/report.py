"""The plan as text: a short table, a sentence of advice, break-even points, all assumptions."""

from collections.abc import Callable
from textwrap import fill

from minimtp.bench.table_text import aligned
from minimtp.plan.costs.sizes import GIGA, Hardware
from minimtp.plan.planning import GAIN, BreakEven, Plan, Row
from minimtp.plan.settings import Settings

Json = dict[str, object]
UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1))
HEADINGS = (
    "configuration", "weights", "cache", "devices", "at a time", "drafts", "tokens/s", "requests/h",
    "needed", "$/M tokens", "cost",
)  # fmt: skip
LEGEND = (
    "devices: of one replica; at a time: requests on it; drafts: per round (0: drafting rests); "
    "tokens/s: of one request;\nrequests/h: of one device; needed: devices for the load; "
    "$/M tokens: new tokens; cost: relative to the first line."
)
SERVICE_HEADINGS = (
    "simulated", "first token p50", "p95", "per token p50", "p95", "tokens/s of a replica",
    "busy", "at a time",
)  # fmt: skip


def print_plan(
    plan: Plan, title: str, assumptions: Json, settings: Settings, report: Callable[[str], None]
) -> None:
    """Report everything."""
    report(title)
    report("")
    report(table(plan))
    report(LEGEND)
    for note in _notes(plan, settings):
        report(note)
    report("")
    report(fill(advise(plan), 100))
    report("")
    report(
        f"Break-even points (decoding, {plan.devices} device{'s' * (plan.devices > 1)} a replica)"
    )
    for point in plan.break_even:
        report(f"  {point_in_words(point, plan.most)}")
    report("")
    report(speedup_table(plan))
    report("")
    report(service_table(plan))
    report("")
    report("Assumptions (each is an option of the same name, or a key of the hardware file)")
    for name, value in assumptions.items():
        report(f"  {name:<22} {value}")


def table(plan: Plan, markdown: bool = False) -> str:
    """Return one line per configuration."""
    return aligned([list(HEADINGS), *(_cells(row) for row in plan.rows)], markdown)


def _cells(row: Row) -> list[str]:
    weights, point = _size(row.candidate.weights), row.point
    if point is None:
        return [row.candidate.name, weights, "does not fit", *[""] * (len(HEADINGS) - 3)]
    return [
        row.candidate.name,
        weights,
        _size(point.cache_gigabytes * GIGA),
        f"{point.devices}",
        f"{point.batch}",
        f"{point.drafts}",
        _rounded(point.tokens_per_second),
        _rounded(point.requests_per_hour),
        f"{point.needed:,}",
        _rounded(point.dollars_per_million),
        f"{row.relative_cost:.0%}",
    ]


def _size(number: float) -> str:
    unit, scale = next((u, s) for u, s in UNITS if number >= s or s == 1)
    return f"{number / scale:.3g} {unit}"


def _rounded(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def _notes(plan: Plan, settings: Settings) -> list[str]:
    """Say what does not fit, and what is slower than a request should be."""
    notes = [f"{row.reason}." for row in plan.rows if row.point is None]
    slow = [row.candidate.name for row in plan.rows if row.point and row.reason]
    if slow:
        notes.append(
            f"Below {settings.min_tokens_per_second:g} tokens/s per request "
            f"(--min-tokens-per-second), so their fastest is shown: {', '.join(slow)}."
        )
    return notes


def service_table(plan: Plan) -> str:
    """Return what the users of a replica see, from the simulation."""
    lines = [list(SERVICE_HEADINGS)]
    for row in plan.rows:
        if row.point:
            seen = row.service
            lines.append(
                [
                    row.candidate.name,
                    f"{seen['first_token_p50']:.3g} s",
                    f"{seen['first_token_p95']:.3g} s",
                    *(_milliseconds(seen[f"per_token_{share}"]) for share in ("p50", "p95")),
                    _rounded(seen["tokens_per_second"]),
                    f"{seen['utilisation']:.0%}",
                    f"{seen['at_a_time']:.1f}",
                ]
            )
    return aligned(lines, False)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g} ms"


def speedup_table(plan: Plan) -> str:
    """Return the decoding speed-up over the first configuration, by requests at a time."""
    first, *others = plan.speedups.items()
    batches = [batch for batch, _ in first[1] if batch.bit_count() == 1]
    lines = [[f"speed-up over {first[0]}, by requests at a time", *map(str, batches)]]
    for name, pairs in others:
        found = dict(pairs)
        lines.append([name, *(f"{found[batch]:.2f}x" for batch in batches)])
    return aligned(lines, False)


def point_in_words(point: BreakEven, most: int) -> str:
    """Return a sentence."""
    name, value = point.name, point.value
    if point.kind == "rows":
        return f"{name}: a pass is compute-bound from {value:,.0f} rows"
    if point.kind == "acceptance":
        at = f"at {point.batch} at a time"
        if value is None:
            return f"{name}: no acceptance makes drafting pay {at}"
        return f"{name}: drafting pays {at} if at least {value:.0%} of the drafts are accepted"
    if value is None:
        return f"{name}: not 5 % faster than {point.over} with any number of requests"
    end = f"{value:,} (the most that fits)" if value == most else f"{value:,}"
    return f"{name}: at least 5 % faster than {point.over} up to {end} at a time"


def as_json(plan: Plan, title: str, assumptions: Json) -> Json:
    """Return all of it as JSON values."""
    return {
        "title": title,
        "advice": advise(plan),
        "configurations": [_row_as_json(row) for row in plan.rows],
        "break_even": [
            {"name": p.name, "kind": p.kind, "batch": p.batch, "over": p.over, "value": p.value}
            for p in plan.break_even
        ],
        "speedups": {
            name: [{"batch": batch, "speedup": speedup} for batch, speedup in pairs]
            for name, pairs in plan.speedups.items()
        },
        "speedup_devices": plan.devices,
        "assumptions": assumptions,
    }


def _row_as_json(row: Row) -> Json:
    point = row.point
    found: Json = {
        "name": row.candidate.name,
        "weight_gigabytes": row.candidate.weights / GIGA,
        "fits": point is not None,
        "note": row.reason,
        "relative_cost": row.relative_cost,
    }
    if point:
        found |= {name: getattr(point, name) for name in point.__dataclass_fields__}
        found["simulated"] = row.service
    return found


MEASURED = {  # what a plan of a measured run does not assume, because it is measured
    "acceptance", "max_drafts", "bits", "table_bits", "cache_bits", "draft_layers", "max_devices",
    "parallel_efficiency", "gigabytes_per_second", "teraflops", "bandwidth_efficiency",
    "compute_efficiency", "layer_microseconds", "round_milliseconds", "request_microseconds",
    "cache_megabytes", "linked_devices",
}  # fmt: skip
RANGE = {"min_batch", "max_batch", "swept_to", "title"}


def assumptions_of(settings: Settings, hardware: Hardware, subject: str, is_measured: bool) -> Json:
    """Return everything that was assumed, by the name of its option. subject: the model."""
    found: Json = {"model": subject, "hardware": hardware.title}
    low, high = settings.min_batch, settings.max_batch
    found["batch"] = f"{low}-{high}" if low < high else low
    values = settings.to_dict() | {n: getattr(hardware, n) for n in hardware.__struct_fields__}
    for name, value in values.items():
        if name not in RANGE and not (is_measured and name in MEASURED):
            found[name.replace("_", "-")] = value
    return {
        name: ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if value is not None
    }


def advise(plan: Plan) -> str:
    """Return the sentence: what to choose, why, and where the gain of drafting ends."""
    rows = [row for row in plan.rows if row.point]
    baseline, cheapest = rows[0], min(rows, key=lambda row: row.relative_cost)
    fastest = max(rows, key=lambda row: row.point.tokens_per_second)
    if cheapest.relative_cost <= 1 / GAIN:
        chosen = min(
            (row for row in rows if row.relative_cost <= cheapest.relative_cost * 1.01),
            key=lambda row: -row.point.tokens_per_second,
        )
        verdict = (
            f"Choose {chosen.candidate.name}: it costs {chosen.relative_cost:.0%} of "
            f"{baseline.candidate.name}, because {_reason(chosen, baseline)}"
        )
    elif fastest.point.tokens_per_second >= GAIN * baseline.point.tokens_per_second:
        verdict = (
            f"Choose {fastest.candidate.name} for its speed: nothing is cheaper here, but a "
            f"request gets {fastest.point.tokens_per_second:,.0f} instead of "
            f"{baseline.point.tokens_per_second:,.0f} tokens/s"
        )
    else:
        verdict = f"Stay with {baseline.candidate.name}: nothing is cheaper or faster by 5 %"
    return f"{verdict}; {_limit(plan)}."


def _reason(chosen: Row, baseline: Row) -> str:
    mine, other = chosen.candidate, baseline.candidate
    reasons = []
    if mine.weights < 0.8 * other.weights:
        sizes = f"{_size(mine.weights)} instead of {_size(other.weights)}"
        reasons.append(f"its weights take {sizes}")
    if chosen.point.drafts:
        reasons.append(f"a pass emits {chosen.point.tokens_per_pass:.1f} tokens")
    return " and ".join(reasons) or "a device serves more requests at the same time"


def _limit(plan: Plan) -> str:
    """Say up to how many requests drafting pays, for the last configuration that drafts."""
    drafting = [row.candidate for row in plan.rows if row.candidate.base and row.point]
    if not drafting:
        return "none of the configurations drafts"
    limits = {p.name: p.value for p in plan.break_even if p.kind == "batch"}
    name = drafting[-1].name
    limit = limits[name]
    is_roofline = any(p.kind == "rows" for p in plan.break_even)
    beyond = "verification is compute-bound" if is_roofline else "longer passes cost too much"
    if limit is None:
        return "drafting does not pay, because a draft costs more than it saves"
    if limit == plan.most:
        return f"drafting pays for every number of requests at a time up to {limit}"
    return f"in {name}, drafting pays up to {limit} requests at a time, beyond which {beyond}"
