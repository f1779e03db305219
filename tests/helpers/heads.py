"""Prediction heads for tests: every kind, and its options that change what it computes."""

from minimtp.model.heads import HEADS, LargerTokenConditionedHeads

WITH_LAYERS = "token_conditioned with layers"
OWN_OUTPUT = "eagle3 with its own output"
OPTIONS = {
    WITH_LAYERS: {"layers": (1, 0), "intermediate_size": 96},
    OWN_OUTPUT: {"own_output": True},
}
KINDS = [*HEADS, *OPTIONS]


def heads_of(kind, depth, config, rng, **options):
    """Return new heads. kind: one of KINDS."""
    make = LargerTokenConditionedHeads if kind == WITH_LAYERS else HEADS[kind.partition(" ")[0]]
    return make(depth, config, rng, **OPTIONS.get(kind, {}), **options)


def kind_of(heads):
    """Return the one of KINDS that these heads are."""
    if isinstance(heads, LargerTokenConditionedHeads):
        return WITH_LAYERS
    kind = next(kind for kind, made in HEADS.items() if type(heads) is made)
    return OWN_OUTPUT if kind == "eagle3" and heads.output is not None else kind
