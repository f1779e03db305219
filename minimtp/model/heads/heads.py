"""The interface of prediction heads."""

from collections.abc import Iterator

from minimtp.backend import Array
from minimtp.engine.module import Module
from minimtp.engine.tensor import Tensor
from minimtp.model.heads.draft_vocabulary import DraftVocabulary
from minimtp.model.matrix import Matrix
from minimtp.model.transformer import Transformer

ALL = slice(None)


class Heads(Module):
    """K extra heads of one kind.

    depth: K, the number of extra tokens that are predicted.
    independent: head k does not need the states of the heads before it.
    can_skip_positions: the states can be computed at a subset of the positions, for a part of the
    cost.
    layers: F trunk layers whose inputs the heads read; L means the output of the last layer. The
    trunk's states then are (B, T, (1 + F) D): its final state and these
    (`MultiTokenModel.trunk_states`).
    draft_vocabulary: the tokens that the heads may draft; None means all.
    output: the heads' own output matrix; None means the trunk's.
    """

    independent = False
    can_skip_positions = False
    depth: int
    layers: tuple[int, ...] = ()
    draft_vocabulary: DraftVocabulary | None = None
    output: Matrix | None = None

    def draft_output(self, trunk_output: Matrix) -> Matrix:
        """Return the matrix of the drafts' logits: the heads' own, the rows of the draft vocabulary
        in the trunk's output, which are copied as they are stored, or the trunk's output itself.
        """
        if self.output is not None:
            return self.output
        if self.draft_vocabulary is None:
            return trunk_output
        return trunk_output.select(self.draft_vocabulary.ids.data)

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        """Yield the state (B, T, D) of each head k = 1..K.

        hidden: (B, T, (1 + F) D), the trunk's. following: (B, T, K) integers, the K tokens after
        each position. Head k may use the first k of them, following[:, :, :k].
        """
        raise NotImplementedError(f"{type(self).__name__} defines no states")

    def states_at(
        self, positions: slice, hidden: Tensor, following: Array, trunk: Transformer
    ) -> Iterator[Tensor]:
        """Yield the states (B, n, D) at n of the T positions: fewer than all only if the heads
        `can_skip_positions`. Here a state needs its own position only.
        """
        yield from self.states(at_positions(hidden, positions), following[:, positions], trunk)


def at_positions(x: Tensor, positions: slice) -> Tensor:
    """Return x (B, T, ...) at some of the T positions."""
    length = x.shape[1]
    return x if positions.indices(length) == (0, length, 1) else x[:, positions]
