"""Exercises of lesson 5. Fill in the bodies, then run:

pytest --mine tests/model/heads/test_heads.py
"""

from collections.abc import Iterator

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Op, Tensor
from minimtp.model.config import ModelConfig
from minimtp.model.heads.draft_vocabulary import DraftVocabulary
from minimtp.model.heads.heads import Heads
from minimtp.model.heads.token_conditioned import TokenConditionedHead
from minimtp.model.layers import Rng
from minimtp.model.transformer import Transformer


class GatedUpdate(Op):
    """s + sigmoid(gate) * (candidate - s) for a state s (..., D) and gate_candidate (..., 2D), gate
    first.

    The smallest gated recurrent step: the gate decides per channel how much of the state is
    replaced.
    """

    def forward(self, state: Array, gate_candidate: Array) -> Array:
        """state (..., D), gate_candidate (..., 2D) -> the new state (..., D)."""
        raise NotImplementedError(
            "lesson 5: return the new state, and store what backward will need"
        )

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        """Gradient (..., D) of the new state -> those of state and gate_candidate, (..., D) and
        (..., 2D).
        """
        raise NotImplementedError("lesson 5: return the gradients of state and gate_candidate")


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
        raise NotImplementedError(
            "lesson 5: apply self.head once per depth, and yield self.head.norm of each state"
        )


def teacher_forced_acceptance(predicted: np.ndarray) -> list[float | None]:
    """Return the acceptance at depth 1..K, None for a depth that no draft reached.

    predicted: the most probable tokens (W, T, 1 + K) of the model and then of each head.

    The draft of head j at t is accepted if predicted[w, t, j] equals predicted[w, t + j, 0], the
    model's own choice there. Acceptance at depth k is counted over the positions t < T - k where
    the drafts of heads 1..k-1 are accepted.
    """
    raise NotImplementedError(
        "lesson 5: for each depth, count the drafts that reach it and those accepted there"
    )
