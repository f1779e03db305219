"""The tensors of a Hugging Face folder that make up each parameter of our models.

    embedding.weight                     model.embed_tokens.weight
    blocks.N.attention_norm.weight       model.layers.N.input_layernorm.weight
    blocks.N.attention.qkv.weight        ...self_attn.{q,k,v}_proj.weight, one after another
    blocks.N.attention.qkv_bias          ...self_attn.{q,k,v}_proj.bias (Qwen2)
    blocks.N.attention.query_norm.weight ...self_attn.q_norm.weight (Qwen3); key_norm: k_norm
    blocks.N.attention.output.weight     ...self_attn.o_proj.weight
    blocks.N.feed_forward_norm.weight    ...post_attention_layernorm.weight
    blocks.N.feed_forward.gate_up.weight ...mlp.{gate,up}_proj.weight, one after another
    blocks.N.feed_forward.down.weight    ...mlp.down_proj.weight
    final_norm.weight                    model.norm.weight
    output.weight                        lm_head.weight (absent if tied)

**Rotary positions.** `transformers` rotates channel i together with channel i + C/2, we rotate
neighbours (2i, 2i+1). So the channels of every query head and key head change places: position
(half, i) becomes (i, half). The wrong order loads without an error and writes nonsense.
"""

from collections.abc import Iterator
from typing import NamedTuple

from minimtp.backend import Array, array_module
from minimtp.model.config import ModelConfig


class Part(NamedTuple):
    """A tensor of the folder: its name, its shape, and whether its rows are channels that RoPE
    rotates.
    """

    name: str
    shape: tuple[int, ...]
    rotated: bool = False


def layout(config: ModelConfig) -> Iterator[tuple[str, list[Part]]]:
    """Yield each parameter of the trunk with the tensors that are its rows, one after another."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    joined = {"q": queries, "k": keys, "v": keys}
    yield "embedding.weight", [Part("model.embed_tokens.weight", (config.vocabulary_size, hidden))]
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        attention = f"{theirs}.self_attn"
        yield f"{ours}.attention_norm.weight", [Part(f"{theirs}.input_layernorm.weight", (hidden,))]
        yield (
            f"{ours}.attention.qkv.weight",
            [
                Part(f"{attention}.{name}_proj.weight", (rows, hidden), name != "v")
                for name, rows in joined.items()
            ],
        )
        yield (
            f"{ours}.attention.output.weight",
            [Part(f"{attention}.o_proj.weight", (hidden, queries))],
        )
        if config.qkv_bias:
            yield (
                f"{ours}.attention.qkv_bias",
                [
                    Part(f"{attention}.{name}_proj.bias", (rows,), name != "v")
                    for name, rows in joined.items()
                ],
            )
        if config.qk_norm:
            for our_norm, their_norm in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
                yield (
                    f"{ours}.attention.{our_norm}.weight",
                    [Part(f"{attention}.{their_norm}.weight", (config.head_dim,), True)],
                )
        yield (
            f"{ours}.feed_forward_norm.weight",
            [Part(f"{theirs}.post_attention_layernorm.weight", (hidden,))],
        )
        yield (
            f"{ours}.feed_forward.gate_up.weight",
            [Part(f"{theirs}.mlp.{name}_proj.weight", (inner, hidden)) for name in ("gate", "up")],
        )
        yield (
            f"{ours}.feed_forward.down.weight",
            [Part(f"{theirs}.mlp.down_proj.weight", (hidden, inner))],
        )
    yield "final_norm.weight", [Part("model.norm.weight", (hidden,))]
    if not config.tied_embeddings:
        yield "output.weight", [Part("lm_head.weight", (config.vocabulary_size, hidden))]


def to_neighbours(rows: Array, head_dim: int) -> Array:
    """Reorder rows (heads * C, ...) from halves (i, i + C/2) to neighbours (2i, 2i + 1)."""
    return _swap(rows, 2, head_dim // 2)


def to_halves(rows: Array, head_dim: int) -> Array:
    """Reorder rows (heads * C, ...) from neighbours to halves: the inverse of `to_neighbours`."""
    return _swap(rows, head_dim // 2, 2)


def _swap(rows: Array, first: int, second: int) -> Array:
    by_head = rows.reshape(-1, first, second, *rows.shape[1:]).swapaxes(1, 2)
    return array_module(rows).ascontiguousarray(by_head).reshape(rows.shape)
