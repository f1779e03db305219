"""A trunk together with its prediction heads."""

from minimtp.backend import Array
from minimtp.engine.module import Module
from minimtp.engine.ops import concatenate
from minimtp.engine.tensor import Tensor
from minimtp.model.config import ModelConfig
from minimtp.model.heads.draft_vocabulary import DraftVocabulary
from minimtp.model.heads.heads import Heads
from minimtp.model.matrix import Matrix
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

    @property
    def layers(self) -> tuple[int, ...]:
        """The trunk layers whose inputs the heads read."""
        return self.heads.layers

    def hidden(self, tokens: Array) -> Tensor:
        """tokens (B, T) -> (B, T, D), the trunk's state after its final norm."""
        return self.trunk.hidden(tokens)

    def trunk_states(self, tokens: Array) -> Tensor:
        """tokens (B, T) -> (B, T, (1 + F) D), what the heads read: the state after the final norm,
        and the inputs of F layers.
        """
        if not self.layers:
            return self.trunk.hidden(tokens)
        x = self.trunk.embedding(tokens)  # (B, T, D)
        inputs = [x]
        for block in self.trunk.blocks:
            x = block(x)
            inputs.append(x)
        return concatenate(self.trunk.final_norm(x), *(inputs[layer] for layer in self.layers))

    def logits(self, hidden: Tensor) -> Tensor:
        """States (..., D), of the trunk or of a head -> logits (..., V)."""
        return self.trunk.logits(hidden)

    def draft_logits(self, state: Tensor, vocabulary: DraftVocabulary | None = None) -> Tensor:
        """States (..., D) of a head -> logits (..., V') over a draft vocabulary, or (..., V)
        without one.

        vocabulary: None is the heads' own. Heads that have one have no logits for another.
        """
        own, output = self.heads.draft_vocabulary, self.heads.output
        if output is None:
            return self.trunk_draft_logits(state, vocabulary or own)
        if vocabulary is None or own is not None:
            return output(state)
        return output.matmul_rows(state, vocabulary.ids.data)

    @property
    def draft_output_matrix(self) -> Matrix:
        """The matrix of the drafts' logits (`Heads.draft_output`). Files need the matrices of the
        model in full precision or packed.
        """
        return self.heads.draft_output(self.trunk.output_matrix)

    def trunk_draft_logits(
        self, state: Tensor, vocabulary: DraftVocabulary | None = None
    ) -> Tensor:
        """States (..., D) -> the trunk's logits (..., V') over a draft vocabulary, or (..., V).

        vocabulary: None is the heads' own.
        """
        vocabulary = vocabulary or self.heads.draft_vocabulary
        if vocabulary is None:
            return self.logits(state)
        return self.trunk.output_matrix.matmul_rows(state, vocabulary.ids.data)
