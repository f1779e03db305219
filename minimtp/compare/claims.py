"""What is claimed of multi-token prediction and int4 training, held against what was measured here.

The published figures come from models thousands of times larger on other hardware. A claim is printed with its range, the
value measured, and whether it held; a value better than the range counts as held, and says so.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

Measured = Mapping[str, Mapping[str, float]]  # by configuration, then by column


@dataclass(frozen=True)
class Claim:
    """One published statement. value: what was measured; low, high: the published range, in the same unit."""

    statement: str
    value: float
    low: float
    high: float
    unit: str
    held: bool
    remark: str

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        number = f"{self.value:.2f}x" if self.unit == "x" else f"{self.value:.2f} {self.unit}"
        return f"{'held' if self.held else 'NOT HELD':>8}  {self.statement}: {number}{self.remark}"


def judge(measured: Measured) -> list[Claim]:
    """The claims, with the columns of `measured["standard" | "mtp" | "mtp_qat_int4" | "mtp_int4_rounded"]`."""
    standard, mtp, qat, rounded = (
        measured[n] for n in ("standard", "mtp", "mtp_qat_int4", "mtp_int4_rounded")
    )
    half_precision_bytes = standard["weight_bytes"] / 2  # published models are kept in 16 bits
    claims = []
    for suffix, where in (("", "temperature 0"), ("_t1", "temperature 1")):
        claims.append(
            _at_least(
                f"MTP decodes 1.8x-2.5x faster ({where})", mtp[f"speedup{suffix}"], 1.8, 2.5, "x"
            )
        )
        claims.append(
            _at_least(
                f"MTP + QAT int4 decodes 3x-5x faster ({where})",
                qat[f"speedup{suffix}"],
                3.0,
                5.0,
                "x",
            )
        )
    claims.append(
        _at_least("MTP has equal quality (99 % or more)", mtp["quality_percent"], 99.0, 100.0, "%")
    )
    claims.append(
        _at_least(
            "MTP + QAT int4 keeps 96-99 % of the quality", qat["quality_percent"], 96.0, 99.0, "%"
        )
    )
    ratio = half_precision_bytes / qat["weight_bytes"]
    claims.append(
        _at_least(
            "MTP + QAT int4 weighs a third to a quarter of 16-bit weights (heads included)",
            ratio,
            3,
            4,
            "x",
        )
    )
    lost, kept = 100.0 - rounded["quality_percent"], 100.0 - qat["quality_percent"]
    claims.append(
        _within("int4 by rounding only loses 5-15 % of the quality", lost, 5.0, 15.0, "%")
    )
    remark = f" (training through the rounding loses {kept:.2f} %)"
    claims.append(
        Claim(
            "int4 by rounding only loses more than QAT",
            lost,
            max(kept, 0.0),
            100.0,
            "%",
            lost > kept,
            remark,
        )
    )
    return claims


def _at_least(statement: str, value: float, low: float, high: float, unit: str) -> Claim:
    if value < low:
        remark = f", short of {low:g} by {low - value:.2f}"
    else:
        remark = f", beyond {high:g}" if value > high else ""
    return Claim(statement, value, low, high, unit, value >= low, remark)


def _within(statement: str, value: float, low: float, high: float, unit: str) -> Claim:
    remark = (
        f", less than {low:g}" if value < low else f", more than {high:g}" if value > high else ""
    )
    return Claim(statement, value, low, high, unit, low <= value <= high, remark)


COLUMNS = (  # heading, key, how to print it
    ("bits/byte", "bits_per_byte", "{:.3f}"),
    ("next byte", "top1", "{:.1%}"),
    ("quality", "quality_percent", "{:.1f} %"),
    ("weights", "weight_bytes", "{:,.0f} B"),
    ("bits/w", "bits_per_weight", "{:.2f}"),
    ("memory", "peak_memory_bytes", "{:,.0f} B"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("tok/step", "tokens_per_step", "{:.2f}"),
    ("speed-up", "speedup", "{:.2f}x"),
    ("tokens/s T=1", "tokens_per_second_t1", "{:,.0f}"),
    ("tok/step T=1", "tokens_per_step_t1", "{:.2f}"),
    ("speed-up T=1", "speedup_t1", "{:.2f}x"),
)


def table(configurations: list[dict[str, object]], markdown: bool = False) -> str:
    """The configurations as rows of text, or of a Markdown table."""
    headings = ["configuration", *(heading for heading, _, _ in COLUMNS)]
    rows = [
        [c["title"], *(pattern.format(c[key]) for _, key, pattern in COLUMNS)]
        for c in configurations
    ]
    if markdown:
        lines = [headings, ["---", *["---:"] * len(COLUMNS)], *rows]
        return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    widths = [max(len(line[i]) for line in (headings, *rows)) for i in range(len(headings))]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in (headings, *rows)
    )


def memory(configurations: list[dict[str, object]]) -> str:
    """What decoding takes beside what it cannot do without: one line for people."""
    shares = [
        c["peak_memory_bytes"] / (c["weight_bytes"] + c["cache_bytes"]) for c in configurations
    ]
    return f"memory while decoding: {min(shares):.2f} to {max(shares):.2f} times weights and cache"
