"""A round whose drafts are a tree: draft, verify, truncate, commit, as in round.py.

One forward pass verifies all nodes (rules/tree.py describes the layout of a tree). The rule accepts
a path from the root, and the target keeps the rows of that path only. From there on the state is
the same as if the path had been drafted as a chain.
"""

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import TreeDrafter
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.round import Round
from minimtp.decode.rules.rule import Rule
from minimtp.decode.target import TreeTarget


def speculative_tree_round(
    tokens: list[int], target: TreeTarget, drafter: TreeDrafter, rule: Rule, plan: DraftPlan
) -> Round:
    """Extend the committed `tokens` in place, with a tree of at most plan.nodes drafts, at most
    plan.drafts deep.
    """
    position = len(tokens)
    tree = drafter.draft_tree(plan.nodes, plan.drafts, rule, plan.min_acceptance)  # N drafts
    step = target.forward_tree(tree.tokens, tree.depths)  # logits (N + 1, V), hidden (N + 1, W)
    path, token = rule.verify_tree(step.logits, tree)
    rows = [0, *path]  # row 0 is the pending token
    target.keep(rows)
    committed = [*(tree.tokens[row] for row in path), token]
    tokens += committed
    hidden = step.hidden[array_module(step.hidden).asarray(rows)]
    drafter.commit(hidden, np.array(committed))
    return Round(position, tree.along(path), len(path), committed, tree)
