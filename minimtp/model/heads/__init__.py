"""Prediction heads: from the hidden state of position i, the tokens after the next one.

The trunk's own output predicts token i+1. Extra head k = 1..K predicts token i+1+k, at every position i, from

    parallel           u_k = Block_k(h_i)                                    (Gloeckle et al. 2024, arXiv 2404.19737)
    sequential         s_k = Block_k(M_k [norm(s_{k-1}); norm(e(t_{i+k}))])  (DeepSeek-V3, arXiv 2412.19437, section 2.2)
    token-conditioned  [g; c] = W [norm(s_{k-1}); norm(e(t_{i+k}))],  s_k = s_{k-1} + sigmoid(g) (c - s_{k-1})
                       (the idea of Hydra, arXiv 2402.05109, as the recurrence of ReDrafter, arXiv 2403.09919)

with s_0 = h_i, the trunk's hidden state after its final norm, e the trunk's token table, [a; b] concatenation, and
logits = trunk's output(norm(s_k)). The embedding and the output are the trunk's, shared. A sequential module looks back
over all positions (it has attention, and needs a cache when decoding); the token-conditioned head is one gated step, the
same for every depth, whose only memory is the state, which makes it the cheapest drafter and 8 % of a small trunk's weights;
parallel heads do not see the tokens in between at all.

One interface: `states(hidden, following, trunk)` yields s_1, ..., s_K, ready for the output. Four conventions of the
sequential modules, used alike in training and decoding: the state comes first in the concatenation; it is the trunk's state
*after* the final norm; rotary positions are those of i; no row is zeroed.
"""

from collections.abc import Iterator

from minimtp.backend import Array
from minimtp.engine.fused import GatedUpdate
from minimtp.engine.module import Module
from minimtp.engine.ops import concatenate
from minimtp.engine.tensor import Tensor
from minimtp.model.layers import Linear, RMSNorm, Rng
from minimtp.model.rotary import Rotary
from minimtp.model.transformer import Block, ModelConfig, Transformer


class ParallelHead(Module):
    """One transformer block on the trunk's hidden state: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, rotary: Rotary, rng: Rng) -> None:
        self.block = Block(config, rotary, rng)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.norm(self.block(hidden))


class SequentialHead(Module):
    """Previous state and next token, joined, through one transformer block: (B, T, D), (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, rotary: Rotary, rng: Rng) -> None:
        self.state_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.token_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.join = Linear(2 * config.hidden_size, config.hidden_size, rng)
        self.block = Block(config, rotary, rng)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def __call__(self, state: Tensor, token: Tensor) -> Tensor:
        return self.norm(
            self.block(self.join(concatenate(self.state_norm(state), self.token_norm(token))))
        )


class TokenConditionedHead(Module):
    """One gated step of the state (B, T, D) on the next token (B, T, D): the gate and the candidate come from one product."""

    def __init__(self, config: ModelConfig, rng: Rng) -> None:
        self.state_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.token_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gate_candidate = Linear(2 * config.hidden_size, 2 * config.hidden_size, rng)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def __call__(self, state: Tensor, token: Tensor) -> Tensor:
        joined = concatenate(self.state_norm(state), self.token_norm(token))  # (B, T, 2D)
        return GatedUpdate().apply(state, self.gate_candidate(joined))


class Heads(Module):
    """K extra heads of one kind.

    depth: K, how many extra tokens are predicted.
    independent: head k does not need the states of the heads before it.
    positionwise: a position's states need no other position, so the heads can be trained at some positions only.
    """

    independent = False
    positionwise = False
    depth: int

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        """Yield the state of head k = 1..K at every position.

        hidden: (B, T, D), the trunk's. following: (B, T, K) integers, the K tokens after each position; head k may read
        those up to the k-th, following[:, :, k - 1].
        """
        raise NotImplementedError(f"{type(self).__name__} defines no states")


class ParallelHeads(Heads):
    independent = True

    def __init__(self, depth: int, config: ModelConfig, rng: Rng) -> None:
        rotary = Rotary(config.head_dim, config.rope_theta)
        self.depth = depth
        self.steps = [ParallelHead(config, rotary, rng) for _ in range(depth)]

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        for head in self.steps:
            yield head(hidden)


class SequentialHeads(Heads):
    def __init__(self, depth: int, config: ModelConfig, rng: Rng) -> None:
        rotary = Rotary(config.head_dim, config.rope_theta)
        self.depth = depth
        self.steps = [SequentialHead(config, rotary, rng) for _ in range(depth)]

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        state = hidden
        for k, head in enumerate(self.steps):
            state = head(state, trunk.embedding(following[:, :, k]))
            yield state


class TokenConditionedHeads(Heads):
    """One head serves every depth: applied again and again, it is a small recurrent network."""

    positionwise = True

    def __init__(self, depth: int, config: ModelConfig, rng: Rng) -> None:
        self.depth = depth
        self.head = TokenConditionedHead(config, rng)

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        state = hidden
        for k in range(self.depth):
            state = self.head(state, trunk.embedding(following[:, :, k]))
            yield self.head.norm(state)


HEADS: dict[str, type[Heads]] = {
    "parallel": ParallelHeads,
    "sequential": SequentialHeads,
    "token_conditioned": TokenConditionedHeads,
}


class MultiTokenModel(Module):
    """A trunk and its extra heads. Without looking at the heads it is the trunk, exactly."""

    def __init__(self, trunk: Transformer, heads: Heads) -> None:
        self.trunk = trunk
        self.heads = heads

    @property
    def config(self) -> ModelConfig:
        return self.trunk.config

    @property
    def depth(self) -> int:
        """Extra tokens predicted."""
        return self.heads.depth

    def hidden(self, tokens: Array) -> Tensor:
        """tokens (B, T) -> (B, T, D), the trunk's state after its final norm."""
        return self.trunk.hidden(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """States (..., D), of the trunk or of a head -> logits (..., V)."""
        return self.trunk.logits(hidden)
