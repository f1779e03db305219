"""A trunk together with its prediction heads."""

from minimtp.backend import Array
from minimtp.engine.module import Module
from minimtp.engine.tensor import Tensor
from minimtp.model.config import ModelConfig
from minimtp.model.heads.draft_vocabulary import DraftVocabulary
from minimtp.model.heads.heads import Heads
from minimtp.model.transformer import Transformer


class MultiTokenModel(Module):
    """A trunk and its extra heads. If the heads are ignored, it is exactly the trunk."""

    def __init__(self, trunk: Transformer, heads: Heads) -> None:
        self.trunk = trunk
        self.heads = heads

    @property
    def config(self) -> ModelConfig:
        return self.trunk.config

    @property
    def depth(self) -> int:
        """K, the number of extra tokens that are predicted."""
        return self.heads.depth

    def hidden(self, tokens: Array) -> Tensor:
        """tokens (B, T) -> (B, T, D), the trunk's state after its final norm."""
        return self.trunk.hidden(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """States (..., D), of the trunk or of a head -> logits (..., V)."""
        return self.trunk.logits(hidden)

    def draft_logits(self, state: Tensor, vocabulary: DraftVocabulary | None = None) -> Tensor:
        """States (..., D) of a head -> logits (..., V') over a draft vocabulary, or (..., V)
        without one.

        vocabulary: None is the heads' own.
        """
        vocabulary = vocabulary or self.heads.draft_vocabulary
        if vocabulary is None:
            return self.logits(state)
        return self.trunk.output_matrix.matmul_rows(state, vocabulary.ids.data)
