"""The names and the layout of a trunk's parameters in a GGUF file, the format of llama.cpp.

A trunk is LLaMA-shaped, so each of its parameters has a counterpart. The fused matrices are only
split again between rows:

    embedding             token_embd           final_norm             output_norm
    output                output               (absent if tied: llama.cpp then uses token_embd)
    attention_norm        attn_norm            feed_forward_norm      ffn_norm
    attention.qkv         attn_q, attn_k, attn_v        (Qwen2: also their biases)
    attention.query_norm  attn_q_norm          attention.key_norm     attn_k_norm (Qwen3)
    attention.output      attn_output          feed_forward.down      ffn_down
    feed_forward.gate_up  ffn_gate, ffn_up

Our models rotate adjacent channels, as the architecture "llama" does (ggml's rope type "norm"), so
the order of its rows does not change. The architectures in HALVES rotate channel i together with
channel i + C/2 (rope type "neox"), so the channels of their queries and keys change places.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.config import ModelConfig

HALVES = ("qwen2", "qwen3")


class Part(NamedTuple):
    """A tensor of the file: its name, its shape, and whether its rows are channels that RoPE
    rotates.
    """

    name: str
    shape: tuple[int, ...]
    rotated: bool = False


def layout(config: ModelConfig) -> Iterator[tuple[str, list[Part]]]:
    """Yield each parameter of the trunk with the tensors that are its rows, one after another."""
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_heads * head_dim, config.num_kv_heads * head_dim
    joined = {"q": queries, "k": keys, "v": keys}
    yield "embedding.weight", [Part("token_embd.weight", (config.vocabulary_size, hidden))]
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"blk.{i}"
        yield f"{ours}.attention_norm.weight", [Part(f"{theirs}.attn_norm.weight", (hidden,))]
        yield (
            f"{ours}.attention.qkv.weight",
            [
                Part(f"{theirs}.attn_{name}.weight", (rows, hidden), name != "v")
                for name, rows in joined.items()
            ],
        )
        if config.qkv_bias:
            yield (
                f"{ours}.attention.qkv_bias",
                [
                    Part(f"{theirs}.attn_{name}.bias", (rows,), name != "v")
                    for name, rows in joined.items()
                ],
            )
        if config.qk_norm:
            for norm, letter in (("query_norm", "q"), ("key_norm", "k")):
                part = Part(f"{theirs}.attn_{letter}_norm.weight", (head_dim,), True)
                yield f"{ours}.attention.{norm}.weight", [part]
        output = Part(f"{theirs}.attn_output.weight", (hidden, queries))
        yield f"{ours}.attention.output.weight", [output]
        yield f"{ours}.feed_forward_norm.weight", [Part(f"{theirs}.ffn_norm.weight", (hidden,))]
        yield (
            f"{ours}.feed_forward.gate_up.weight",
            [Part(f"{theirs}.ffn_{name}.weight", (inner, hidden)) for name in ("gate", "up")],
        )
        yield (
            f"{ours}.feed_forward.down.weight",
            [Part(f"{theirs}.ffn_down.weight", (hidden, inner))],
        )
    yield "final_norm.weight", [Part("output_norm.weight", (hidden,))]
    if not config.tied_embeddings:
        yield "output.weight", [Part("output.weight", (config.vocabulary_size, hidden))]


def to_neighbours(rows: Array, head_dim: int) -> Array:
    """Reorder rows (heads * C, ...) from halves (i, i + C/2) to neighbours (2i, 2i + 1)."""
    by_head = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(by_head).reshape(rows.shape)


def gguf_library() -> ModuleType:
    """Return the library `gguf`. Raises UserError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError(
            "writing GGUF files needs the extra interop: pip install 'minimtp[interop]'"
        ) from None
    return gguf
