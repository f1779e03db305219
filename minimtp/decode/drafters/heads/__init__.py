"""The drafters of a model's own prediction heads (minimtp/model/heads/).

registry.py            `head_drafter`, and what each kind of heads needs to draft
token_conditioned.py   a gated step for each token
eagle3.py              one block that continues from the trunk's states
parallel.py            a block for each depth, on the trunk's states
sequential.py          a block for each depth, on the states of the block before it
block_heads.py         common to the last two
"""

from minimtp.decode.drafters.heads.registry import head_drafter

__all__ = ["head_drafter"]
