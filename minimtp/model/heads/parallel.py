"""Parallel heads (Gloeckle et al. 2024, arXiv 2404.19737): one transformer block per head, all on
the trunk's state.
"""

from collections.abc import Iterator

from minimtp.backend import Array
from minimtp.engine.module import Module
from minimtp.engine.tensor import Tensor
from minimtp.model.config import ModelConfig
from minimtp.model.heads.heads import Heads
from minimtp.model.layers import RMSNorm, Rng
from minimtp.model.rotary import Rotary
from minimtp.model.transformer import Block, Transformer


class ParallelHead(Module):
    """A transformer block on the trunk's hidden state: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, rotary: Rotary, rng: Rng) -> None:
        self.block = Block(config, rotary, rng)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.norm(self.block(hidden))


class ParallelHeads(Heads):
    """K independent blocks."""

    independent = True

    def __init__(self, depth: int, config: ModelConfig, rng: Rng) -> None:
        rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling)
        self.depth = depth
        self.steps = [ParallelHead(config, rotary, rng) for _ in range(depth)]

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        for head in self.steps:
            yield head(hidden)  # (B, T, D)
