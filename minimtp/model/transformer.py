"""The trunk: a LLaMA-shaped decoder-only transformer (Touvron et al. 2023, arXiv 2302.13971).

    x = embedding[tokens]                                       (B, T, D)
    for each block:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    hidden = final_norm(x);   logits = hidden @ outputᵀ         (B, T, V)

It uses RMSNorm, rotary positions on adjacent pairs, grouped-query attention, SwiGLU and no biases.
(Qwen2 adds biases to queries, keys and values. Qwen3 normalizes every query head and key head
instead. Both are settings of the configuration.)
The output matrix can be tied to the token table. The last linear layer of each residual branch is
zero-initialized, so a new block is the identity. Compared with starting points from N(0, 0.02),
this is worth 0.44 bits per byte after 0.6 M bytes (4 blocks, hidden size 128).

The architecture is standard, so other programs' files fit without a special case. q, k and v are
one fused matrix, and so are gate and up: their rows are concatenated, and can be split again.

This file knows nothing about prediction heads or quantization. Both wrap the trunk or replace its
modules.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.engine.fused import CausalAttention, SwiGLU
from minimtp.engine.module import Module
from minimtp.engine.ops import concatenate
from minimtp.engine.tensor import Parameter, Tensor, is_recording
from minimtp.model.config import ModelConfig
from minimtp.model.layers import Embedding, Linear, RMSNorm, Rng
from minimtp.model.matrix import Matrix
from minimtp.model.rotary import Rotary

ROWS_AT_ONCE = 2048  # positions that `in_slices` computes together


class Attention(Module):
    """Grouped-query self-attention: (B, T, D) -> (B, T, D).

    cache: number format of its KV cache, "float", "int8" or "int4". quantize_kv: rounds keys or
    values (..., C) to the numbers that a quantized cache returns. None if the cache stores floats.
    """

    cache = "float"
    quantize_kv: Callable[[Array], Array] | None = None

    def __init__(self, config: ModelConfig, rotary: Rotary, rng: Rng) -> None:
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.qkv = Linear(config.hidden_size, query_size + 2 * kv_size, rng)
        self.output = Linear(query_size, config.hidden_size, rng, zero_init=True)
        self.rotary = rotary
        self.qkv_bias: Parameter | None = None
        if config.qkv_bias:
            self.qkv_bias = Parameter(np.zeros(query_size + 2 * kv_size, np.float32))
        self.query_norm: RMSNorm | None = None
        self.key_norm: RMSNorm | None = None
        if config.qk_norm:
            self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def __call__(self, x: Tensor) -> Tensor:
        cosine, sine = self.rotary.tables(x.shape[1], x.data)  # (T, C/2)
        attended = self.operation(cosine, sine).apply(self.project(x))  # (B, T, H*C)
        return self.output(attended)

    def project(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> queries, keys and values before their rotation: (B, T, (H + 2G) C)."""
        joined = self.qkv(x)
        if self.qkv_bias is not None:
            joined = joined + self.qkv_bias
        if self.query_norm is None:
            return joined
        head_dim = self.query_norm.weight.shape[0]
        queries, keys = self.num_heads * head_dim, self.num_kv_heads * head_dim
        return concatenate(
            _normalize_heads(joined[..., :queries], self.query_norm),
            _normalize_heads(joined[..., queries : queries + keys], self.key_norm),
            joined[..., queries + keys :],
        )

    def operation(self, cosine: Array, sine: Array) -> CausalAttention:
        """Return a new operation: the attention between the two linear layers."""
        return CausalAttention(self.num_heads, self.num_kv_heads, cosine, sine)


class FeedForward(Module):
    """down(silu(gate(x)) * up(x)): (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, rng: Rng) -> None:
        self.gate_up = Linear(config.hidden_size, 2 * config.intermediate_size, rng)
        self.down = Linear(config.intermediate_size, config.hidden_size, rng, zero_init=True)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(SwiGLU().apply(self.gate_up(x)))


class Block(Module):
    """Pre-norm residual block: attention, then feed-forward. (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, rotary: Rotary, rng: Rng) -> None:
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config, rotary, rng)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.feed_forward = FeedForward(config, rng)

    def __call__(self, x: Tensor) -> Tensor:
        return in_slices(self.feed_forward_residual, self.attention_residual(x))

    def attention_residual(self, x: Tensor) -> Tensor:
        """Return x (B, T, D) plus its attention."""
        return x + self.attention(self.attention_norm(x))

    def feed_forward_residual(self, x: Tensor) -> Tensor:
        """Return x (..., D) plus its feed-forward part, which looks at each position alone."""
        return x + self.feed_forward(self.feed_forward_norm(x))


def in_slices(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return function(x), (B, T, D) -> (B, T, D), for a function of single positions.

    Without gradients, at most ROWS_AT_ONCE positions are computed together. The arrays inside a
    feed-forward layer are several times larger than x, and the length of a text must not decide how
    much memory they take.
    """
    batch, length, size = x.shape
    if is_recording() or batch * length <= ROWS_AT_ONCE:
        return function(x)
    rows = x.data.reshape(-1, size)  # (B*T, D)
    result = array_module(rows).empty_like(rows)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        result[part] = function(Tensor(rows[part])).data
    return Tensor(result.reshape(batch, length, size))


class Transformer(Module):
    """tokens (B, T) -> hidden (B, T, D) -> logits (B, T, V). Predicts the next token only, so
    `depth` is 0.
    """

    depth = 0
    layers: tuple[int, ...] = ()  # whose inputs heads read

    def __init__(self, config: ModelConfig, rng: Rng) -> None:
        self.config = config
        rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling)
        self.embedding = Embedding(config.vocabulary_size, config.hidden_size, rng)
        self.blocks = [Block(config, rotary, rng) for _ in range(config.num_layers)]
        self.final_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.output: Linear | None = None  # None: tied to the embedding
        if not config.tied_embeddings:
            self.output = Linear(config.hidden_size, config.vocabulary_size, rng)

    @property
    def trunk(self) -> "Transformer":
        """Return the model itself. A model with heads has its trunk under this name."""
        return self

    @property
    def output_matrix(self) -> Matrix:
        """The output, which is the token table if they are tied."""
        return self.embedding if self.output is None else self.output

    def hidden(self, tokens: Array) -> Tensor:
        """tokens (B, T) integers -> the state (B, T, D) after the final norm: the input of the
        output and the heads.
        """
        x = self.embedding(tokens)  # (B, T, D)
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)

    def trunk_states(self, tokens: Array) -> Tensor:
        """Return `hidden`: without heads, nobody reads more."""
        return self.hidden(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> logits (..., V)."""
        return self.embedding.logits(hidden) if self.output is None else self.output(hidden)


def _normalize_heads(x: Tensor, norm: RMSNorm) -> Tensor:
    """Normalize each head of x (B, T, heads * C) over its C channels."""
    batch, length, width = x.shape
    by_head = x.reshape(batch, length, -1, norm.weight.shape[0])  # (B, T, heads, C)
    return norm(by_head).reshape(batch, length, width)


class LanguageModel(Protocol):
    """A model that can be trained: a Transformer, or a MultiTokenModel that predicts `depth` more
    tokens.
    """

    trunk: Transformer
    config: ModelConfig
    depth: int
    layers: Sequence[int]

    def hidden(self, tokens: Array) -> Tensor: ...

    def trunk_states(self, tokens: Array) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def parameters(self) -> list[Parameter]: ...
