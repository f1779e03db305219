"""The trunk: a LLaMA-shaped decoder-only transformer (Touvron et al. 2023, arXiv 2302.13971).

    x = embedding[tokens]                                       (B, T, D)
    for each block:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    hidden = final_norm(x);   logits = hidden @ outputᵀ         (B, T, V)

RMSNorm before each part, rotary positions on adjacent pairs, grouped-query attention, SwiGLU, no biases, and an output
that is the token table itself when tied. Both parts of a block end in a product that starts at zero, so a new block is the
identity; against starting points of N(0, 0.02) this is worth 0.44 bits per byte after 0.6 M bytes (4 blocks, width 128).

The shape is kept so plain that the weights fit other programs' files without a special case. q, k, v are one fused product,
and so are gate and up: their rows are concatenated, and can be split again.

This file knows nothing of prediction heads and nothing of quantization: those wrap it and replace its modules.
"""

from dataclasses import dataclass
from typing import Protocol

from minimtp.backend import Array
from minimtp.engine.fused import CausalAttention, SwiGLU
from minimtp.engine.module import Module
from minimtp.engine.tensor import Parameter, Tensor
from minimtp.model.layers import Embedding, Linear, RMSNorm, Rng
from minimtp.model.rotary import Rotary


@dataclass(frozen=True)
class ModelConfig:
    """The sizes that determine a transformer; the names are those of the recipe."""

    vocabulary_size: int
    context_length: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    tied_embeddings: bool = True
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


class Attention(Module):
    """Grouped-query self-attention: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, rotary: Rotary, rng: Rng) -> None:
        joined = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        self.qkv = Linear(config.hidden_size, joined, rng)
        self.output = Linear(
            config.num_heads * config.head_dim, config.hidden_size, rng, start_at_zero=True
        )
        self.heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.rotary = rotary

    def __call__(self, x: Tensor) -> Tensor:
        cosine, sine = self.rotary.tables(x.shape[1], x.data)  # (T, C/2)
        return self.output(self.operation(cosine, sine).apply(self.qkv(x)))

    def operation(self, cosine: Array, sine: Array) -> CausalAttention:
        """What happens between the two products."""
        return CausalAttention(self.heads, self.num_kv_heads, cosine, sine)


class FeedForward(Module):
    """down(silu(gate(x)) * up(x)): (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, rng: Rng) -> None:
        self.gate_up = Linear(config.hidden_size, 2 * config.intermediate_size, rng)
        self.down = Linear(config.intermediate_size, config.hidden_size, rng, start_at_zero=True)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(SwiGLU().apply(self.gate_up(x)))


class Block(Module):
    """Attention, then feed-forward, each on the normalized input and added to it."""

    def __init__(self, config: ModelConfig, rotary: Rotary, rng: Rng) -> None:
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config, rotary, rng)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.feed_forward = FeedForward(config, rng)

    def __call__(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(Module):
    """tokens (B, T) -> hidden (B, T, D) -> logits (B, T, V). Predicts one token: its `depth` of extra tokens is 0."""

    depth = 0

    def __init__(self, config: ModelConfig, rng: Rng) -> None:
        self.config = config
        rotary = Rotary(config.head_dim, config.rope_theta)
        self.embedding = Embedding(config.vocabulary_size, config.hidden_size, rng)
        self.blocks = [Block(config, rotary, rng) for _ in range(config.num_layers)]
        self.final_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.output = (
            None
            if config.tied_embeddings
            else Linear(config.hidden_size, config.vocabulary_size, rng)
        )

    @property
    def trunk(self) -> "Transformer":
        """Itself: what a model with heads keeps under this name."""
        return self

    def hidden(self, tokens: Array) -> Tensor:
        """tokens (B, T) integers -> what the output and the heads read, (B, T, D), after the final norm."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> logits (..., V)."""
        return self.embedding.logits(hidden) if self.output is None else self.output(hidden)


class LanguageModel(Protocol):
    """What is trained: a Transformer, or whatever wraps one and predicts `depth` tokens more (heads.py)."""

    trunk: Transformer
    config: ModelConfig
    depth: int

    def hidden(self, tokens: Array) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def parameters(self) -> list[Parameter]: ...
