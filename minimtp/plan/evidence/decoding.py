"""Predicted beside measured tokens/s, for the ways to draft in bench-decode.json.

The file holds c(T), how many tokens each variant drafts and emits per step (counted), and its
seconds of drafting. Each speed is predicted from c(T) and from what was timed on the *other* kinds
of text: the cost of a draft, and the loop and sampling from plain decoding. The rules token and
block do more per draft than plain decoding does, which this does not know.

Adaptive variants change their length during a text, and trees have other passes: left out.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from minimtp.errors import UserError
from minimtp.plan.evidence.compared import Validated
from minimtp.plan.measured import PassTimes
from minimtp.quoting import shown_path
from minimtp.records import read_json

ADVICE = "run minimtp bench decode again"
PLAIN = "plain"
LEFT_OUT = ("adaptive", "tree")
Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Rate = Annotated[float, Meta(ge=1e-6, le=1e12)]
Number = Annotated[float, Meta(ge=0, le=1e6)]


class DecodingRow(Struct):
    text: str
    temperature: Number
    variant: str
    rule: str
    tokens_per_second: Rate
    tokens_per_step: Number
    drafted_per_step: Number
    drafting_seconds_per_step: Seconds


class DecodingFile(Struct):
    """What is read of bench-decode.json."""

    rows: list[DecodingRow]
    seconds_per_pass: Annotated[
        list[Annotated[float, Meta(ge=1e-9, le=1e6)]], Meta(min_length=2, max_length=10_000)
    ]


def validate_decoding(path: Path) -> list[Validated]:
    """Predict every fixed way to draft. Raises UserError if the file cannot be read."""
    found = read_json(path, DecodingFile, advice=ADVICE)
    passes = PassTimes(dict(enumerate(found.seconds_per_pass, 1)))
    drafting = [
        row
        for row in found.rows
        if row.variant != PLAIN
        and row.drafted_per_step > 0
        and not any(word in row.variant for word in LEFT_OUT)
    ]
    validated = [_validate(path.name, row, found.rows, drafting, passes) for row in drafting]
    if not any(row.by_c for row in validated):
        raise UserError(f"{shown_path(path)} holds fewer than two kinds of text: {ADVICE}")
    return validated


def _validate(
    file: str,
    row: DecodingRow,
    rows: Sequence[DecodingRow],
    drafting: Sequence[DecodingRow],
    passes: PassTimes,
) -> Validated:
    def like(other: DecodingRow, variant: str) -> bool:
        same = (other.variant, other.rule, other.temperature)
        return same == (variant, row.rule, row.temperature) and other.text != row.text

    plain = [other.tokens_per_second for other in rows if like(other, PLAIN)]
    greedy = [
        other.tokens_per_second
        for other in rows
        if (other.variant, other.temperature) == (PLAIN, 0) and other.text != row.text
    ]
    drafts = [
        other.drafting_seconds_per_step / other.drafted_per_step
        for other in drafting
        if like(other, row.variant)
    ]
    predicted = None
    if plain and greedy and drafts:
        loop = max(0.0, 1 / max(greedy) - passes(1))
        sampling = max(0.0, 1 / max(plain) - 1 / max(greedy))
        fed = 1 + row.drafted_per_step
        seconds = passes(fed) + loop + sampling * fed
        seconds += statistics.median(drafts) * row.drafted_per_step
        predicted = row.tokens_per_step / seconds
    name = f"{row.variant}, {row.rule}, {row.text}"
    return Validated(file, name, row.temperature, row.tokens_per_second, predicted, None, None)
