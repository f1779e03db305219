"""The token-conditioned head: one gated step of the state per token, the same at every depth.

It combines the idea of Hydra (arXiv 2402.05109) with the recurrence of ReDrafter (arXiv
2403.09919).
"""

from collections.abc import Iterator

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.engine.fused import GatedUpdate
from minimtp.engine.module import Module
from minimtp.engine.ops import concatenate
from minimtp.engine.tensor import Tensor
from minimtp.model.config import ModelConfig
from minimtp.model.heads.draft_vocabulary import DraftVocabulary
from minimtp.model.heads.heads import Heads
from minimtp.model.layers import Linear, RMSNorm, Rng
from minimtp.model.transformer import Transformer


class TokenConditionedHead(Module):
    """Update the state (B, T, D) with the next token (B, T, D). One linear layer computes gate and
    candidate.
    """

    def __init__(self, config: ModelConfig, rng: Rng) -> None:
        self.state_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.token_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gate_candidate = Linear(2 * config.hidden_size, 2 * config.hidden_size, rng)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def __call__(self, state: Tensor, token: Tensor) -> Tensor:
        joined = concatenate(self.state_norm(state), self.token_norm(token))  # (B, T, 2D)
        return GatedUpdate().apply(state, self.gate_candidate(joined))  # (B, T, D)


class TokenConditionedHeads(Heads):
    """One head for all depths: applied repeatedly, it is a small recurrent network.

    draft_vocabulary_size: the number of tokens that it may draft; None means all.
    start_scale: factor on the initial weights of the matrix and of the norm before the output. At
    full scale, a new head on a pretrained trunk is sure of the token that it has just read.
    """

    can_skip_positions = True

    def __init__(
        self,
        depth: int,
        config: ModelConfig,
        rng: Rng,
        draft_vocabulary_size: int | None = None,
        start_scale: float = 1.0,
    ) -> None:
        self.depth = depth
        self.head = TokenConditionedHead(config, rng)
        if rng is not None and start_scale != 1.0:
            self.head.gate_candidate.weight.data *= np.float32(start_scale)
            self.head.norm.weight.data *= np.float32(start_scale)
        if draft_vocabulary_size is not None:
            self.draft_vocabulary = DraftVocabulary(draft_vocabulary_size, config.vocabulary_size)

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        state = hidden  # (B, T, D)
        for k in range(self.depth):
            state = self.head(state, trunk.embedding(following[:, :, k]))
            yield self.head.norm(state)
