"""The form of compare.json and measured.json for a pretrained model."""

from collections.abc import Container, Iterable
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct

from minimtp.compare.schema import Acceptance, DeviceRecord, GreedyTexts
from minimtp.records import AboveZero, Finite, NonNegative, Positive

ByKind = dict[str, Finite]  # by kind of text


class QualityPart(Struct):
    """One configuration on one kind of text."""

    nats: AboveZero
    kl: Finite
    agreement: Finite


class SpeedPart(Struct):
    """One configuration on one kind of prompt."""

    tokens_per_second: AboveZero
    tokens_per_second_slowest: NonNegative
    tokens_per_second_fastest: NonNegative
    tokens_per_step: NonNegative
    speedup: NonNegative
    acceptance: Acceptance
    repetition: NonNegative


class DraftedSpeedPart(SpeedPart):
    """A configuration that drafts."""

    tokens_per_second_without_drafts: AboveZero
    speedup_over_plain: NonNegative
    greedy_texts: GreedyTexts


def speed_part(names: Iterable[str], drafting: Container[str]) -> type:
    """Return the form of the part of one kind of prompt: a value for each configuration.

    drafting: the names of those that draft.
    """
    return defstruct(
        "Part", [(name, DraftedSpeedPart if name in drafting else SpeedPart) for name in names]
    )


class Configuration(Struct, kw_only=True):
    """One configuration. Only those that draft have `greedy_texts` and the fields beside it."""

    name: str
    title: str
    nats: ByKind
    kl: ByKind
    agreement: ByKind
    quality_percent: ByKind
    tokens_per_second: ByKind
    tokens_per_step: ByKind
    speedup: ByKind
    repetition: ByKind
    weight_bytes: Positive
    memory_bytes: Positive
    bits_per_weight: AboveZero
    greedy_texts: dict[str, GreedyTexts] | UnsetType = UNSET
    tokens_per_second_without_drafts: ByKind | UnsetType = UNSET
    speedup_over_plain: ByKind | UnsetType = UNSET


class Result(Struct):
    """compare.json. The values typed as objects are compared with those of the command."""

    configurations: Annotated[list[Configuration], Meta(min_length=5, max_length=6)]
    device: DeviceRecord
    seconds: NonNegative
    steps: dict[str, NonNegative]
    preset: str
    seed: int
    model: dict[str, object]
    sizes: dict[str, object]
    minimtp_version: str
    llama_cpp_version: str | None = None
    llama_cpp_obstacle: str | None = None
