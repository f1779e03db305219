"""Published claims about multi-token prediction and int4 training, compared with our measurements.

The published numbers come from models thousands of times larger, on other hardware. Each claim is
printed with the published range, the measured value, and whether the value reaches the range. A
value that is better than the whole range also reaches it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

Measured = Mapping[str, Mapping[str, float]]  # by configuration, then by the name of the result


@dataclass(frozen=True)
class Claim:
    """One published claim and our measurement of it.

    claimed: the published range of `subject`. value: the measured value in `unit`.
    """

    subject: str
    value: float
    unit: str
    claimed: str
    reached: bool

    def to_dict(self) -> dict[str, str | float | bool]:
        return asdict(self)

    @property
    def measured(self) -> str:
        return _number(self.value, self.unit, digits=2)

    @property
    def verdict(self) -> str:
        return "reached" if self.reached else "not reached"

    def describe(self, verb: str = "claimed") -> str:
        """Describe the claim in one sentence. verb: comes before the range."""
        return f"{self.verdict}: {self.subject} is {self.measured}, {verb} {self.claimed}"


def judge(measured: Measured) -> list[Claim]:
    """Judge the claims. `measured` has the configurations standard, mtp, mtp_qat_int4 and
    mtp_int4_rounded.
    """
    standard = measured["standard"]
    mtp = measured["mtp"]
    qat = measured["mtp_qat_int4"]
    rounded = measured["mtp_int4_rounded"]
    claims = []
    for suffix, temperature in (("", 0), ("_t1", 1)):
        for title, configuration, low, high in (
            ("MTP", mtp, 1.8, 2.5),
            ("MTP + QAT int4", qat, 3.0, 5.0),
        ):
            subject = f"the speed-up of {title} at temperature {temperature}"
            claims.append(at_least(subject, configuration[f"speedup{suffix}"], "x", low, high))
    claims.append(at_least("the quality of MTP", mtp["quality_percent"], "%", 99, 100))
    claims.append(at_least("the quality of MTP + QAT int4", qat["quality_percent"], "%", 96, 99))
    half_precision_bytes = standard["weight_bytes"] / 2  # published models store 16 bits per weight
    claims.append(
        at_least(
            "the size of 16-bit weights over that of MTP + QAT int4 with heads",
            half_precision_bytes / qat["weight_bytes"],
            "x",
            3,
            4,
        )
    )
    return claims + _claims_about_rounding(
        100.0 - rounded["quality_percent"], 100.0 - qat["quality_percent"]
    )


def _claims_about_rounding(lost: float, lost_with_qat: float) -> list[Claim]:
    """Judge the claims about the quality lost by int4.

    lost: the loss in percent if the weights are only rounded. lost_with_qat: the loss in percent
    with quantization-aware training.
    """
    subject = "the quality lost by rounding to int4 without training"
    more = f"more than the {_number(lost_with_qat, '%', digits=2)} lost with QAT"
    return [
        Claim(subject, lost, "%", claim_range(5, 15, "%"), 5 <= lost <= 15),
        Claim(subject, lost, "%", more, lost > lost_with_qat),
    ]


def at_least(subject: str, value: float, unit: str, low: float, high: float) -> Claim:
    return Claim(subject, value, unit, claim_range(low, high, unit), value >= low)


def claim_range(low: float, high: float, unit: str) -> str:
    return f"{_number(low, unit)} to {_number(high, unit)}"


def _number(value: float, unit: str, digits: int | None = None) -> str:
    number = f"{value:g}" if digits is None else f"{value:.{digits}f}"
    return number + unit if unit == "x" else f"{number} {unit}"
