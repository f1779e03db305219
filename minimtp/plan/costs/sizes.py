"""What a plan is about: the size of a model, the hardware, and the number format of the weights.

Presets come from presets.toml, which names the source of each number. A model can also come from
the config.json of a Hugging Face folder, and hardware from a JSON file with the keys of `Hardware`.
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from minimtp.errors import UserError, shown
from minimtp.files import kind_at
from minimtp.quoting import shown_path
from minimtp.records import check_value, read_json

GIGA = 1e9
CONFIG_NAME = "config.json"
PRESETS = Path(__file__).parent / "presets.toml"

Size = Annotated[int, Meta(ge=1, le=10_000_000)]
Layers = Annotated[int, Meta(ge=1, le=10_000)]
Vocabulary = Annotated[int, Meta(ge=1, le=100_000_000)]
Rate = Annotated[float, Meta(ge=1e-6, le=1e9)]
Share = Annotated[float, Meta(ge=0.01, le=1)]
Cost = Annotated[float, Meta(ge=0, le=1e6)]


class ModelSize(Struct, frozen=True):
    """The size of a transformer of the LLaMA family, with the field names of config.json."""

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Layers
    vocab_size: Vocabulary
    num_key_value_heads: Layers | None = None  # None: as many as attention heads
    head_dim: Size | None = None  # None: hidden_size / num_attention_heads
    tie_word_embeddings: bool = False
    title: str = "your model"

    @property
    def kv_size(self) -> int:
        """Width of the keys of one layer; the values are as wide."""
        heads = self.num_key_value_heads or self.num_attention_heads
        return heads * self.head_size

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def query_size(self) -> int:
        return self.num_attention_heads * self.head_size

    @property
    def attention_weights(self) -> int:
        """Weights of the projections q, k, v and o of one layer."""
        return 2 * self.hidden_size * (self.query_size + self.kv_size)

    @property
    def mlp_weights(self) -> int:
        """Weights of gate, up and down of one layer."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def layer_weights(self) -> int:
        return self.attention_weights + self.mlp_weights

    @property
    def table_weights(self) -> int:
        """Weights of the token table. The output matrix has as many, or is the same one."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights, without the norms."""
        tables = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * self.layer_weights + tables * self.table_weights


class Hardware(Struct, frozen=True, forbid_unknown_fields=True):
    """One device. The rates are peaks; the efficiencies are the shares that a pass reaches.
    presets.toml explains every field.
    """

    memory_gigabytes: Rate
    gigabytes_per_second: Rate
    teraflops: Rate
    teraflops_int4: Rate | None = None  # None: as with 16-bit weights
    bandwidth_efficiency: Share = 0.8
    compute_efficiency: Share = 0.6
    layer_microseconds: Cost = 0.0
    round_milliseconds: Cost = 0.0
    request_microseconds: Cost = 0.0
    cache_megabytes: Cost = 0.0
    cache_gigabytes_per_second: Rate | None = None
    linked_devices: Annotated[int, Meta(ge=1, le=8)] = 8
    dollars_per_hour: Cost = 0.0
    priced: str = ""
    title: str = "your hardware"
    source: str = ""

    def bytes_per_second(self, weight_bytes: float) -> float:
        """Return the bandwidth for a model with this many bytes of weights."""
        cached = self.cache_gigabytes_per_second and weight_bytes <= self.cache_megabytes * 1e6
        peak = self.cache_gigabytes_per_second if cached else self.gigabytes_per_second
        return peak * GIGA * self.bandwidth_efficiency

    @property
    def float_operations_per_second(self) -> float:
        """Return the operations per second that a pass reaches with 16-bit numbers."""
        return self.teraflops * 1e12 * self.compute_efficiency

    def operations_per_second(self, precision: "Precision") -> float:
        """Return the rate of additions and multiplications with weights of this precision."""
        peak = self.teraflops_int4 if precision.is_low_bit else None
        return (peak or self.teraflops) * 1e12 * self.compute_efficiency


class Precision(Struct, frozen=True):
    """The number format of the weights: bits per weight, scales included.

    table_bits: of the token table and the output matrix.
    """

    bits: float
    table_bits: float

    @property
    def is_low_bit(self) -> bool:
        """Return whether the kernels for 4-bit weights run."""
        return self.bits < 8


HALF = Precision(16.0, 16.0)
# ggml's q4_0 stores 32 weights and a 16-bit scale in 18 bytes; its q8_0, for the tables, in 34.
INT4 = Precision(4.5, 8.5)


def names(kind: str) -> list[str]:
    """Return the names of the presets of "hardware" or "model"."""
    return list(_presets()[kind])


def hardware(name: str) -> Hardware:
    """Return a preset, or the hardware in a JSON file. Raises UserError."""
    return _preset_or_file("hardware", name, Hardware)


def model(name: str) -> ModelSize:
    """Return a preset, or the size in a config.json, given as the file or its folder. Raises
    UserError.
    """
    if name not in names("model"):
        _require_no_head(name)
    size = _preset_or_file("model", name, ModelSize)
    heads, kv_heads = size.num_attention_heads, size.num_key_value_heads or 1
    if size.head_dim is None and size.hidden_size % heads:
        raise UserError(
            f"{shown_path(name)}: hidden_size {size.hidden_size} is not a multiple of "
            f"num_attention_heads {heads}: correct one of them, or add head_dim"
        )
    if heads % kv_heads:
        raise UserError(
            f"{shown_path(name)}: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}: correct one of them"
        )
    return size


@cache
def _presets() -> dict[str, dict[str, dict[str, object]]]:
    return tomllib.loads(PRESETS.read_text(encoding="utf-8"))


def _require_no_head(name: str) -> None:
    """Raise UserError for the config.json of a draft head, which has sizes like a small model."""
    from minimtp.formats.huggingface.config import HeadMarks, describes_head

    path = Path(name, CONFIG_NAME) if kind_at(name) == "folder" else Path(name)
    if path.suffix.lower() == ".json" and kind_at(path) == "file":
        if describes_head(read_json(path, HeadMarks, advice="correct the file")):
            raise UserError(
                f"{shown_path(path)} describes a draft head: give the config.json of its model"
            )


def _preset_or_file(kind: str, name: str, schema: type) -> Hardware | ModelSize:
    if name in names(kind):
        return check_value(_presets()[kind][name], schema, PRESETS.name, "reinstall minimtp")
    known = ", ".join(names(kind))
    if kind == "model" and kind_at(Path(name, CONFIG_NAME)) == "file":
        name = str(Path(name, CONFIG_NAME))
    if Path(name).suffix.lower() != ".json":
        raise UserError(f"--{kind} {shown(name)!r} is neither a .json file nor one of {known}")
    return read_json(name, schema, advice=f"correct the file, or choose one of {known}")
