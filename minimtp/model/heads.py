"""Prediction heads: from the hidden state of position i, the tokens after the next one.

The trunk's own output predicts token i+1. Extra head k = 1..K predicts token i+1+k, at every position i, from

    parallel           u_k = Block_k(h_i)                                    (Gloeckle et al. 2024, arXiv 2404.19737)
    sequential         s_k = Block_k(M_k [norm(s_{k-1}); norm(e(t_{i+k}))])  (DeepSeek-V3, arXiv 2412.19437, section 2.2)
    token-conditioned  s_k = s_{k-1} + MLP_k([norm(s_{k-1}); norm(e(t_{i+k}))])   (after Hydra, arXiv 2402.05109)

with s_0 = h_i, the trunk's hidden state after its final norm, e the trunk's token table, [a; b] concatenation, and
logits = trunk's output(norm(state)). The embedding and the output are the trunk's, shared. A sequential module looks back
over all positions (it has attention, and needs a cache when decoding); a token-conditioned head is a small perceptron whose
only memory is the state, which makes it the cheapest drafter; parallel heads do not see the tokens in between at all.

One interface: `states(hidden, following, trunk)` yields s_1, ..., s_K, ready for the output. Four conventions of the
sequential modules, used alike in training and decoding: the state comes first in the concatenation; it is the trunk's state
*after* the final norm; rotary positions are those of i; no row is zeroed.
"""

from collections.abc import Iterator

from minimtp.backend import numpy as np
from minimtp.engine.module import Module
from minimtp.engine.ops import SiLU, concatenate
from minimtp.engine.tensor import Array, Tensor
from minimtp.model.layers import Linear, RMSNorm
from minimtp.model.rotary import Rotary
from minimtp.model.transformer import Block, Shape, Transformer


class ParallelHead(Module):
    """One transformer block on the trunk's hidden state: (B, T, D) -> (B, T, D)."""

    def __init__(self, shape: Shape, rotary: Rotary, rng: np.random.Generator) -> None:
        self.block = Block(shape, rotary, rng)
        self.norm = RMSNorm(shape.width, shape.norm_epsilon)

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.norm(self.block(hidden))


class SequentialHead(Module):
    """Previous state and next token, joined, through one transformer block: (B, T, D), (B, T, D) -> (B, T, D)."""

    def __init__(self, shape: Shape, rotary: Rotary, rng: np.random.Generator) -> None:
        self.state_norm = RMSNorm(shape.width, shape.norm_epsilon)
        self.token_norm = RMSNorm(shape.width, shape.norm_epsilon)
        self.join = Linear(2 * shape.width, shape.width, rng)
        self.block = Block(shape, rotary, rng)
        self.norm = RMSNorm(shape.width, shape.norm_epsilon)

    def __call__(self, state: Tensor, token: Tensor) -> Tensor:
        return self.norm(self.block(self.join(concatenate(self.state_norm(state), self.token_norm(token)))))


class TokenConditionedHead(Module):
    """Previous state plus a perceptron of it and the next token: (B, T, D), (B, T, D) -> (B, T, D)."""

    def __init__(self, shape: Shape, rng: np.random.Generator) -> None:
        self.state_norm = RMSNorm(shape.width, shape.norm_epsilon)
        self.token_norm = RMSNorm(shape.width, shape.norm_epsilon)
        self.up = Linear(2 * shape.width, shape.width, rng)
        self.down = Linear(shape.width, shape.width, rng, start_at_zero=True)

    def __call__(self, state: Tensor, token: Tensor) -> Tensor:
        joined = concatenate(self.state_norm(state), self.token_norm(token))  # (B, T, 2D)
        return state + self.down(SiLU().apply(self.up(joined)))


class Heads(Module):
    """K extra heads of one kind.

    independent: head k does not need the states of the heads before it.
    positionwise: a position's states need no other position, so the heads can be trained at some positions only.
    """

    independent = False
    positionwise = False
    steps: list

    @property
    def depth(self) -> int:
        """Extra tokens predicted."""
        return len(self.steps)

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        """Yield the state of head k = 1..K at every position.

        hidden: (B, T, D), the trunk's. following: (B, T, K) integers, the K tokens after each position; head k may read
        those up to the k-th, following[:, :, k - 1].
        """
        raise NotImplementedError(f"{type(self).__name__} defines no states")


class ParallelHeads(Heads):
    independent = True

    def __init__(self, depth: int, shape: Shape, rng: np.random.Generator) -> None:
        rotary = Rotary(shape.channels, shape.rope_base)
        self.steps = [ParallelHead(shape, rotary, rng) for _ in range(depth)]

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        for head in self.steps:
            yield head(hidden)


class ConditionedHeads(Heads):
    """Heads that read the token before the one they predict; each hands its state to the next."""

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        state = hidden
        for k, head in enumerate(self.steps):
            state = head(state, trunk.embedding(following[:, :, k]))
            yield state


class SequentialHeads(ConditionedHeads):
    def __init__(self, depth: int, shape: Shape, rng: np.random.Generator) -> None:
        rotary = Rotary(shape.channels, shape.rope_base)
        self.steps = [SequentialHead(shape, rotary, rng) for _ in range(depth)]


class TokenConditionedHeads(ConditionedHeads):
    """One head serves every depth: applied again and again, it is a small recurrent network."""

    positionwise = True

    def __init__(self, depth: int, shape: Shape, rng: np.random.Generator) -> None:
        self.steps = [TokenConditionedHead(shape, rng)] * depth


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
    def shape(self) -> Shape:
        return self.trunk.shape

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
