"""Forward passes of a few tokens, each in one compiled call.

block.py         a transformer block
trunk.py         all blocks and the output
team.py          threads that compute a pass together
batched_step.py  the trunk for tokens of several sequences
attention.py     attention over the KV cache
stored_rows.py   rounding keys and values to the number format of the cache
gated_head.py    drafting with a gated head
verification.py  verifying a chain of sampled drafts
"""
