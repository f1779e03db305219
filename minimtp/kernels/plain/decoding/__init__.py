"""Decoding in plain array code.

block.py            a transformer block, or the whole trunk, for a few tokens
batched_step.py     the trunk for tokens of several sequences
draft_chain.py      a chain of drafts from any model
gated_head.py       drafting with a gated head
best_first_tree.py  the tree of the most probable drafts
verification.py     verifying a chain of sampled drafts
"""
