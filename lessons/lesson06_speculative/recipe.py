"""Lesson 6 adds verification rules and the decoding loop. The model is lesson 5's, unchanged."""

from lessons.lesson05_heads.recipe import recipe as previous

INTRODUCES = (
    "minimtp.decode.rules.tree",
    "minimtp.decode.rules.rule",
    "minimtp.decode.rules.residual",
    "minimtp.decode.rules.matching",
    "minimtp.decode.rules.greedy",
    "minimtp.decode.rules.shared_noise",
    "minimtp.decode.rules.match",
    "minimtp.decode.rules.rejection",
    "minimtp.decode.rules.token",
    "minimtp.decode.rules.block",
    "minimtp.decode.rules.registry",
    "minimtp.decode.drafters.drafter",
    "minimtp.decode.drafters.acceptance",
    "minimtp.decode.drafters.tree_growth",
    "minimtp.decode.drafters.heads.token_conditioned",
    "minimtp.decode.drafters.heads.eagle3",
    "minimtp.decode.drafters.heads.block_heads",
    "minimtp.decode.drafters.heads.parallel",
    "minimtp.decode.drafters.heads.sequential",
    "minimtp.decode.drafters.heads.registry",
    "minimtp.decode.drafters.heads",
    "minimtp.decode.logits_processors",
    "minimtp.decode.stopping",
    "minimtp.decode.round",
    "minimtp.decode.statistics",
    "minimtp.decode.policy.plan",
    "minimtp.decode.tree_round",
    "minimtp.decode.managed_drafter",
    "minimtp.decode.states",
    "minimtp.decode.generation",
    "minimtp.decode.options",
)
DETAILS = "shared noise, the block rule and trees, and a formula for the speed-up"

recipe = previous
