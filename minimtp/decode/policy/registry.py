"""The policy that a drafter needs."""

from minimtp.decode.drafters.drafter import Drafter, SourcesDrafter
from minimtp.decode.policy.adaptive import AdaptivePolicy
from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.plan import DraftPolicy
from minimtp.decode.policy.sources import SourcesPolicy


def make_policy(costs: Costs, drafter: Drafter, nodes: int = 0) -> DraftPolicy:
    """Return a policy that adapts the drafts of `drafter` to text and machine.

    costs: measured times of the target's forward passes. nodes: maximum number of nodes in a draft
    tree; 0 drafts chains only.
    """
    if isinstance(drafter, SourcesDrafter):
        return SourcesPolicy(costs, drafter.depths, drafter.lookups)
    return AdaptivePolicy(costs, drafter.max_depth, nodes)
