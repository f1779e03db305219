"""Prediction heads: from the hidden state at position i, predict the tokens after the next one.

The trunk's own output predicts token i+1. Extra head k = 1..K predicts token i+1+k, at every
position i:

    parallel           u_k = Block_k(h_i)
    sequential         s_k = Block_k(M_k [norm(s_{k-1}); norm(e(t_{i+k}))])
    token-conditioned  [g; c] = W [norm(s_{k-1}); norm(e(t_{i+k}))]
                       s_k = s_{k-1} + sigmoid(g) (c - s_{k-1})
    eagle3             s_k = Block(s_{k-1}, [norm(e(t_{i+k})); norm(s_{k-1})])

with h_i, the trunk's hidden state after its final norm; s_0 = h_i, and for eagle3 W_f [a_i; b_i;
c_i]; e, the trunk's token table; [a; b], concatenation; M_k, W and W_f, matrices that are trained;
and logits = output(norm(s_k)) or output(norm(u_k)). All heads share the trunk's embedding, and its
output unless an eagle3 head has its own. A token-conditioned or eagle3 head may be limited to a few
thousand tokens (draft_vocabulary.py).

    parallel           does not see the tokens in between. Gloeckle et al. 2024, arXiv 2404.19737
    sequential         has attention over all positions, so decoding needs a cache for it.
                       DeepSeek-V3, arXiv 2412.19437, section 2.2
    token-conditioned  is one gated step, the same for every depth, and remembers only the state.
                       It is the smallest and cheapest drafter. The idea of Hydra, arXiv 2402.05109,
                       as the recurrence of ReDrafter, arXiv 2403.09919. For large trunks it can be
                       made larger (larger_token_conditioned.py)
    eagle3             is one block for every depth, which starts from the inputs a, b, c of three
                       trunk layers. Engines run it (eagle3.py). Li et al. 2025, arXiv 2503.01840

All kinds have one interface: `states(hidden, following, trunk)` yields s_1, ..., s_K, ready for the
output. The sequential heads follow four conventions, in training and in decoding. The state comes
first in the concatenation. It is the trunk's state *after* the final norm. Rotary positions are the
positions i. No row is zeroed.
"""

from minimtp.model.heads.draft_vocabulary import DraftVocabulary
from minimtp.model.heads.eagle3 import Eagle3Block, Eagle3Heads
from minimtp.model.heads.heads import Heads
from minimtp.model.heads.larger_token_conditioned import (
    LargerTokenConditionedHeads,
    TokenConditionedHeadWithFeedForward,
)
from minimtp.model.heads.multi_token_model import MultiTokenModel
from minimtp.model.heads.parallel import ParallelHead, ParallelHeads
from minimtp.model.heads.sequential import SequentialHead, SequentialHeads
from minimtp.model.heads.token_conditioned import TokenConditionedHead, TokenConditionedHeads

__all__ = [
    "HEADS",
    "DraftVocabulary",
    "Eagle3Block",
    "Eagle3Heads",
    "Heads",
    "LargerTokenConditionedHeads",
    "MultiTokenModel",
    "ParallelHead",
    "ParallelHeads",
    "SequentialHead",
    "SequentialHeads",
    "TokenConditionedHead",
    "TokenConditionedHeadWithFeedForward",
    "TokenConditionedHeads",
]

HEADS: dict[str, type[Heads]] = {
    "parallel": ParallelHeads,
    "sequential": SequentialHeads,
    "token_conditioned": TokenConditionedHeads,
    "eagle3": Eagle3Heads,
}
