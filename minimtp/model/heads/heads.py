"""The interface of prediction heads."""

from collections.abc import Iterator

from minimtp.backend import Array
from minimtp.engine.module import Module
from minimtp.engine.tensor import Tensor
from minimtp.model.heads.draft_vocabulary import DraftVocabulary
from minimtp.model.transformer import Transformer


class Heads(Module):
    """K extra heads of one kind.

    depth: K, the number of extra tokens that are predicted.
    independent: head k does not need the states of the heads before it.
    positionwise: a position's states need no other position, so the heads can be trained at a
    subset of the positions.
    draft_vocabulary: the tokens that the heads may draft; None means all.
    """

    independent = False
    positionwise = False
    depth: int
    draft_vocabulary: DraftVocabulary | None = None

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        """Yield the state (B, T, D) of each head k = 1..K.

        hidden: (B, T, D), the trunk's. following: (B, T, K) integers, the K tokens after each
        position. Head k may use the first k of them, following[:, :, :k].
        """
        raise NotImplementedError(f"{type(self).__name__} defines no states")
