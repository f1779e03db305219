"""Which tensors of a file are the rows of each parameter of our models, for any format.

Formats differ in their names, and in the order of the channels that RoPE rotates:

    ours, GGUF's llama     channel 2i is rotated together with its neighbour 2i + 1
    Hugging Face, GGUF's   channel i is rotated together with channel i + C/2
    qwen2 and qwen3

So the channels of every query head and key head may have to change places. The wrong order loads
without an error and writes nonsense.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minimtp.backend import Array, array_module
from minimtp.model.config import ModelConfig


@dataclass(frozen=True)
class Names:
    """The names of a format, without the suffixes .weight and .bias. `block` has the place for the
    block's number, and begins the names from `attention_norm` to `down`.
    """

    embedding: str
    block: str
    attention_norm: str
    queries: str
    keys: str
    values: str
    query_norm: str
    key_norm: str
    attention_output: str
    feed_forward_norm: str
    gate: str
    up: str
    down: str
    final_norm: str
    output: str


class Part(NamedTuple):
    """A tensor of a file. rotated: its rows are channels that RoPE rotates."""

    name: str
    shape: tuple[int, ...]
    rotated: bool = False


def layout(config: ModelConfig, names: Names) -> Iterator[tuple[str, list[Part]]]:
    """Yield each parameter of the trunk with the tensors that are its rows, one after another."""
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_heads * head_dim, config.num_kv_heads * head_dim
    joined = [(names.queries, queries), (names.keys, keys), (names.values, keys)]
    yield "embedding.weight", [Part(f"{names.embedding}.weight", (config.vocabulary_size, hidden))]
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", names.block.format(i)

        def part(name: str, *shape: int, rotated: bool = False, theirs: str = theirs) -> Part:
            return Part(f"{theirs}.{name}", shape, rotated)

        yield f"{ours}.attention_norm.weight", [part(f"{names.attention_norm}.weight", hidden)]
        qkv = [
            part(f"{name}.weight", rows, hidden, rotated=name != names.values)
            for name, rows in joined
        ]
        yield f"{ours}.attention.qkv.weight", qkv
        if config.qkv_bias:
            biases = [
                part(f"{name}.bias", rows, rotated=name != names.values) for name, rows in joined
            ]
            yield f"{ours}.attention.qkv_bias", biases
        if config.qk_norm:
            norms = {"query_norm": names.query_norm, "key_norm": names.key_norm}
            for norm, name in norms.items():
                scale = part(f"{name}.weight", head_dim, rotated=True)
                yield f"{ours}.attention.{norm}.weight", [scale]
        output = part(f"{names.attention_output}.weight", hidden, queries)
        yield f"{ours}.attention.output.weight", [output]
        norm = part(f"{names.feed_forward_norm}.weight", hidden)
        yield f"{ours}.feed_forward_norm.weight", [norm]
        gate_up = [part(f"{name}.weight", inner, hidden) for name in (names.gate, names.up)]
        yield f"{ours}.feed_forward.gate_up.weight", gate_up
        yield f"{ours}.feed_forward.down.weight", [part(f"{names.down}.weight", hidden, inner)]
    yield "final_norm.weight", [Part(f"{names.final_norm}.weight", (hidden,))]
    if not config.tied_embeddings:
        yield "output.weight", [Part(f"{names.output}.weight", (config.vocabulary_size, hidden))]


def split(parts: Sequence[Part], rows: Array) -> Iterator[tuple[Part, Array]]:
    """Yield each tensor with its rows of the parameter that the tensors make up."""
    end = 0
    for part in parts:
        start, end = end, end + part.shape[0]
        yield part, rows[start:end]


def to_neighbours(rows: Array, head_dim: int) -> Array:
    """Reorder rows (heads * C, ...) from halves (i, i + C/2) to neighbours (2i, 2i + 1)."""
    return _swapped(rows, 2, head_dim // 2)


def to_halves(rows: Array, head_dim: int) -> Array:
    """Reorder rows (heads * C, ...) from neighbours to halves: the inverse of `to_neighbours`."""
    return _swapped(rows, head_dim // 2, 2)


def _swapped(rows: Array, first: int, second: int) -> Array:
    by_head = rows.reshape(-1, first, second, *rows.shape[1:]).swapaxes(1, 2)
    return array_module(rows).ascontiguousarray(by_head).reshape(rows.shape)
