"""Sequential heads (DeepSeek-V3, arXiv 2412.19437, section 2.2): one transformer block per head,
each on the state of the head before it and on the token in between.
"""

from collections.abc import Iterator

from minimtp.backend import Array
from minimtp.engine.module import Module
from minimtp.engine.ops import concatenate
from minimtp.engine.tensor import Tensor
from minimtp.model.config import ModelConfig
from minimtp.model.heads.heads import Heads
from minimtp.model.layers import Linear, RMSNorm, Rng
from minimtp.model.rotary import Rotary
from minimtp.model.transformer import Block, Transformer


class SequentialHead(Module):
    """Join the previous state and the next token, then one transformer block: (B, T, D), (B, T, D)
    -> (B, T, D).
    """

    def __init__(self, config: ModelConfig, rotary: Rotary, rng: Rng) -> None:
        self.state_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.token_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.join = Linear(2 * config.hidden_size, config.hidden_size, rng)
        self.block = Block(config, rotary, rng)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def __call__(self, state: Tensor, token: Tensor) -> Tensor:
        joined = concatenate(self.state_norm(state), self.token_norm(token))  # (B, T, 2D)
        return self.norm(self.block(self.join(joined)))


class SequentialHeads(Heads):
    """K blocks, one after the other."""

    def __init__(self, depth: int, config: ModelConfig, rng: Rng) -> None:
        rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling)
        self.depth = depth
        self.steps = [SequentialHead(config, rotary, rng) for _ in range(depth)]

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        state = hidden  # (B, T, D)
        for k, head in enumerate(self.steps):
            state = head(state, trunk.embedding(following[:, :, k]))
            yield state
