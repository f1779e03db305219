"""The form of the files of a comparison: compare.json and measured.json."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct, defstruct

from minimtp.records import AboveZero, Count, Finite, NonNegative, Positive
from minimtp.training.evaluation import Evaluation

Acceptance = list[Finite | None]  # null: no draft reached this depth
SPEED = {  # the results of one configuration at one temperature, by name
    "tokens_per_second": AboveZero,
    "tokens_per_second_slowest": NonNegative,
    "tokens_per_second_fastest": NonNegative,
    "tokens_per_step": NonNegative,
    "speedup": NonNegative,
    "draft_depth": Count,
    "min_confidence": Finite,
    "acceptance": Acceptance,
}


@dataclass(frozen=True)
class FiniteEvaluation(Evaluation):
    """An evaluation of a model that can be compared with others."""

    bits_per_byte: AboveZero
    accuracy: Annotated[list[Finite], Meta(min_length=1)]


class GreedyTexts(Struct):
    texts: Count
    equal: Count
    ties: Count
    wrong: list[str]


class MemoryPart(Struct):
    peak_memory_bytes: Count
    cache_bytes: Count


def speed_fields(suffix: str) -> list[tuple[str, Any]]:
    """Return the fields at the temperature with this suffix (measurement.py)."""
    texts = [] if suffix else [("greedy_texts", GreedyTexts)]
    return [(name + suffix, kind) for name, kind in SPEED.items()] + texts


def speed_part(suffix: str, names: Iterable[str]) -> type:
    """Return the form of the part at one temperature."""
    return by_configuration(defstruct("SpeedPart", speed_fields(suffix)), names)


def by_configuration(kind: type, names: Iterable[str]) -> type:
    """Return the form of a part: one value of this kind for each configuration."""
    return defstruct("Part", [(name, kind) for name in names])


Configuration = defstruct(
    "Configuration",
    [
        ("name", str),
        ("title", str),
        ("folder", str),
        ("bits_per_byte", AboveZero),
        ("next_token_accuracy", Finite),
        ("accuracy", list[Finite]),
        ("quality_percent", Finite),
        ("weight_bytes", Positive),
        ("bits_per_weight", AboveZero),
        *speed_fields(""),
        *speed_fields("_t1"),
    ],
    bases=(MemoryPart,),
    kw_only=True,
)


class DeviceRecord(Struct):
    name: str
    kernels: str
    threads: Positive


class Result(Struct):
    """compare.json. The values typed as objects are compared with those of the command."""

    configurations: Annotated[list[Configuration], Meta(min_length=4, max_length=4)]
    device: DeviceRecord
    seconds: NonNegative
    preset: str
    recipes: dict[str, object]
    sizes: dict[str, object]
    corpus: dict[str, object]
    minimtp_version: str


class Cache(Struct):
    """measured.json."""

    setting: dict[str, object]
    parts: dict[str, object]
    seconds: NonNegative
