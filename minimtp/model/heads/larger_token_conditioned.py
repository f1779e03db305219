"""A larger token-conditioned head, for pretrained trunks of a hundred million parameters and more.

The gated step of `token_conditioned.py`, with two additions. Each can be used alone:

    s_0 = W_f [h_i; norm_a(a_i); norm_b(b_i); ...]      a, b, ...: the inputs of chosen trunk layers
    s_k = u + feed_forward(norm(u))                     u: the result of the gated step

The inputs of earlier layers may still hold what the last layers have given up for the next token,
as EAGLE-3 assumes (Li et al. 2025, arXiv 2503.01840). Each has its own norm, because their sizes
differ a lot: in SmolLM2, those of the first position reach 25,000. The feed-forward part is SwiGLU
(Shazeer 2020, arXiv 2002.05202). Both additions start almost without an effect: W_f as the identity
on h_i, the feed-forward part at zero.
"""

from collections.abc import Iterator
from dataclasses import replace

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.engine.ops import concatenate
from minimtp.engine.tensor import Tensor
from minimtp.model.config import ModelConfig
from minimtp.model.heads.token_conditioned import TokenConditionedHead, TokenConditionedHeads
from minimtp.model.layers import Linear, RMSNorm, Rng
from minimtp.model.transformer import FeedForward, Transformer

START_DEVIATION = 0.02  # of the weights of W_f for the inputs of layers


class TokenConditionedHeadWithFeedForward(TokenConditionedHead):
    """The gated step of `head`, then a feed-forward part: (B, T, D), (B, T, D) -> (B, T, D)."""

    def __init__(self, head: TokenConditionedHead, config: ModelConfig, rng: Rng) -> None:
        self.state_norm, self.token_norm = head.state_norm, head.token_norm
        self.gate_candidate, self.norm = head.gate_candidate, head.norm
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.feed_forward = FeedForward(config, rng)

    def __call__(self, state: Tensor, token: Tensor) -> Tensor:
        updated = super().__call__(state, token)  # (B, T, D)
        return updated + self.feed_forward(self.feed_forward_norm(updated))


class LargerTokenConditionedHeads(TokenConditionedHeads):
    """One head for all depths, with the two additions.

    layers: F trunk layers whose inputs it reads besides the final state. intermediate_size: of the
    feed-forward part; None means that there is none. The other arguments are those of
    TokenConditionedHeads.
    """

    def __init__(
        self,
        depth: int,
        config: ModelConfig,
        rng: Rng,
        draft_vocabulary_size: int | None = None,
        start_scale: float = 1.0,
        layers: tuple[int, ...] = (),
        intermediate_size: int | None = None,
    ) -> None:
        super().__init__(depth, config, rng, draft_vocabulary_size, start_scale)
        if intermediate_size is not None:
            sizes = replace(config, intermediate_size=intermediate_size)
            self.head = TokenConditionedHeadWithFeedForward(self.head, sizes, rng)
        self.layers, size = layers, config.hidden_size
        self.layer_norms = [RMSNorm(size, config.norm_eps) for _ in layers]
        self.fc = Linear((1 + len(layers)) * size, size, rng) if layers else None
        if layers and rng is not None:
            weight = self.fc.weight.data
            weight *= START_DEVIATION * np.float32(weight.shape[1] ** 0.5)
            weight[:, :size] = np.eye(size, dtype=np.float32)

    def first_state(self, hidden: Tensor) -> Tensor:
        """hidden (..., (1 + F) D), the final state and the inputs of F layers -> s_0 (..., D)."""
        if self.fc is None:
            return hidden
        size = self.fc.shape[0]
        parts = [hidden[..., size * f : size * (f + 1)] for f in range(1 + len(self.layers))]
        inputs = [norm(part) for norm, part in zip(self.layer_norms, parts[1:], strict=True)]
        return self.fc(concatenate(parts[0], *inputs))

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        yield from super().states(self.first_state(hidden), following, trunk)
