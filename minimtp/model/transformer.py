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

from minimtp.engine.fused import CausalAttention, SwiGLU
from minimtp.engine.module import Module
from minimtp.engine.tensor import Array, Parameter, Tensor
from minimtp.model.layers import Embedding, Generator, Linear, RMSNorm
from minimtp.model.rotary import Rotary


@dataclass(frozen=True)
class Shape:
    """The sizes that determine a transformer; the names are those of the recipe."""

    vocabulary_size: int
    context: int
    layers: int
    width: int
    attention_heads: int
    key_value_heads: int
    feed_forward: int
    tied_embeddings: bool = True
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5

    @property
    def channels(self) -> int:
        """Width of one attention head."""
        return self.width // self.attention_heads


class Attention(Module):
    """Grouped-query self-attention: (B, T, D) -> (B, T, D)."""

    def __init__(self, shape: Shape, rotary: Rotary, rng: Generator) -> None:
        joined = (shape.attention_heads + 2 * shape.key_value_heads) * shape.channels
        self.qkv = Linear(shape.width, joined, rng)
        self.output = Linear(shape.attention_heads * shape.channels, shape.width, rng, start_at_zero=True)
        self.heads, self.key_value_heads = shape.attention_heads, shape.key_value_heads
        self.rotary = rotary

    def __call__(self, x: Tensor) -> Tensor:
        cosine, sine = self.rotary.tables(x.shape[1], x.data)  # (T, C/2)
        return self.output(self.operation(cosine, sine).apply(self.qkv(x)))

    def operation(self, cosine: Array, sine: Array) -> CausalAttention:
        """What happens between the two products."""
        return CausalAttention(self.heads, self.key_value_heads, cosine, sine)


class FeedForward(Module):
    """down(silu(gate(x)) * up(x)): (B, T, D) -> (B, T, D)."""

    def __init__(self, shape: Shape, rng: Generator) -> None:
        self.gate_up = Linear(shape.width, 2 * shape.feed_forward, rng)
        self.down = Linear(shape.feed_forward, shape.width, rng, start_at_zero=True)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(SwiGLU().apply(self.gate_up(x)))


class Block(Module):
    """Attention, then feed-forward, each on the normalized input and added to it."""

    def __init__(self, shape: Shape, rotary: Rotary, rng: Generator) -> None:
        self.attention_norm = RMSNorm(shape.width, shape.norm_epsilon)
        self.attention = Attention(shape, rotary, rng)
        self.feed_forward_norm = RMSNorm(shape.width, shape.norm_epsilon)
        self.feed_forward = FeedForward(shape, rng)

    def __call__(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(Module):
    """tokens (B, T) -> hidden (B, T, D) -> logits (B, T, V). Predicts one token: its `depth` of extra tokens is 0."""

    depth = 0

    def __init__(self, shape: Shape, rng: Generator) -> None:
        self.shape = shape
        rotary = Rotary(shape.channels, shape.rope_base)
        self.embedding = Embedding(shape.vocabulary_size, shape.width, rng)
        self.blocks = [Block(shape, rotary, rng) for _ in range(shape.layers)]
        self.final_norm = RMSNorm(shape.width, shape.norm_epsilon)
        self.output = None if shape.tied_embeddings else Linear(shape.width, shape.vocabulary_size, rng)

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
    shape: Shape
    depth: int

    def hidden(self, tokens: Array) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def parameters(self) -> list[Parameter]: ...
