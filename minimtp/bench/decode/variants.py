"""The ways to draft that `bench decode` compares: every drafter, with fixed and adaptive drafts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from minimtp.bench.interleaved import Variant
from minimtp.decode.drafters.config import CONFIDENCE
from minimtp.decode.drafters.deploy import deploy, with_head
from minimtp.decode.drafters.drafter import Drafter, TreeDrafter
from minimtp.decode.drafters.registry import every_drafter
from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.plan import DraftPolicy
from minimtp.decode.policy.registry import make_policy
from minimtp.decode.rules.registry import RULES
from minimtp.decode.sampling.params import SamplingParams
from minimtp.model.draft_head import DraftHead
from minimtp.model.loaded import LoadedModel
from minimtp.training.run.folder import LoadedRun

PLAIN = "plain"
ADAPTIVE = "adaptive"  # ends the names of variants that choose draft lengths as `generate` does
FIXED_DEPTH = 7
MAX_TREE = 15


def all_variants(
    loaded: LoadedRun, small: LoadedModel | DraftHead | None
) -> tuple[list[Variant], Costs]:
    """Return (plain decoding and every way to draft with this run, the costs of its forward
    passes).

    All variants share one target. small: another run that drafts too,
    or a head that drafts in place of the run's own.
    """
    target, heads = deploy(with_head(loaded.model, small))
    drafters = every_drafter(loaded, heads, small)
    costs = Costs(target, max(MAX_TREE, *(drafter.max_depth for drafter in drafters.values())))
    max_nodes = min(MAX_TREE, target.context_length)
    found = [Variant(PLAIN, target)]
    for name, drafter in drafters.items():
        maximum = drafter.max_depth
        depth = min(FIXED_DEPTH, maximum)
        variant = Variant(name, target, drafter, maximum)
        found.append(replace(variant, name=f"{name}, {depth} drafts", draft_depth=depth))
        confident = replace(variant, min_confidence=CONFIDENCE)
        if maximum > depth and drafter.stops_early:
            found.append(replace(confident, name=f"{name}, min confidence"))
        policy = _adaptive(costs, drafter)
        found.append(replace(confident, name=f"{name}, {ADAPTIVE}", policy=policy))
        if isinstance(drafter, TreeDrafter):
            found.append(replace(variant, name=f"{name}, tree of {FIXED_DEPTH}", tree=FIXED_DEPTH))
            policy = _adaptive(costs, drafter, max_nodes)
            trees = f"{name}, trees, {ADAPTIVE}"
            found.append(replace(confident, name=trees, policy=policy, tree=max_nodes))
    return found, costs


def with_rules(variants: Sequence[Variant], sampling: SamplingParams) -> Iterator[Variant]:
    """Return each variant with each rule, named "variant | rule". At temperature 0 all rules are
    the same.

    Plain decoding comes first. It samples its tokens as the rule does, which also takes time.
    """
    rules = RULES[:1] if sampling.greedy else RULES
    for variant in variants:
        for rule in rules:
            yield replace(variant, name=f"{variant.name} | {rule}", rule=rule)


def _adaptive(costs: Costs, drafter: Drafter, nodes: int = 0) -> Callable[[], DraftPolicy]:
    return partial(make_policy, costs, drafter, nodes)
