"""The drafter of a model's own prediction heads (minimtp/model/heads/).

For m committed tokens t_0 .. t_{m-1}, the trunk has computed rows 0 .. m-2, and t_{m-1} is pending.
Head k at row i predicts token i+1+k. So at the last row, i = m-2, heads 1, 2, ... predict exactly
the tokens to draft:

    d_k = sample from output(s_k[m-2])

Each kind of heads needs different inputs to compute the state s_k:

    token-conditioned   [g; c] = W [norm(s_{k-1}); norm(e(t))],  t = t_{m-1}, d_1, d_2, ...
                        needs only the last hidden state. The part of the product that depends on
                        the token alone is a table lookup, so a drafted token costs one small
                        matrix product and the output layer
    parallel            s_k = Block_k(h)
                        attends to all rows: one KV cache per head, with committed rows only
    sequential          s_k[i] = Block_k([s_{k-1}[i]; e(t_{i+k})])
                        module k at row i reads k tokens ahead, so only its rows 0 .. m-1-k are
                        known for m tokens. The k-1 rows up to m-2 read drafted tokens and are
                        provisional
    eagle3              s_k = Block(s_{k-1}, e(t)), s_0 = g[m-2], from the inputs of three layers
                        one KV cache: the committed rows come from the trunk's states, and those of
                        a draft are dropped after it
"""

from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.drafters.heads.eagle3 import Eagle3Drafter
from minimtp.decode.drafters.heads.parallel import ParallelDrafter
from minimtp.decode.drafters.heads.sequential import SequentialDrafter
from minimtp.decode.drafters.heads.token_conditioned import TokenConditionedDrafter
from minimtp.decode.model_runner import ModelRunner
from minimtp.model.heads import (
    Eagle3Heads,
    Heads,
    ParallelHeads,
    SequentialHeads,
    TokenConditionedHeads,
)

DRAFTERS: dict[type[Heads], type] = {
    TokenConditionedHeads: TokenConditionedDrafter,
    ParallelHeads: ParallelDrafter,
    SequentialHeads: SequentialDrafter,
    Eagle3Heads: Eagle3Drafter,
}


def head_drafter(heads: Heads, runner: ModelRunner) -> Drafter:
    """Return the drafter of these heads on this trunk. Both are in full precision or converted to
    packed modules.

    Raises TypeError if there is no drafter for this kind of heads, or if the heads have to be
    converted first.
    """
    for kind, drafter in DRAFTERS.items():
        if isinstance(heads, kind):
            return drafter(heads, runner)
    raise TypeError(f"no drafter for {type(heads).__name__}")
