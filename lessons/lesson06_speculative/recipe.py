"""What lesson 6 adds: rules that accept or reject drafts, and the loop that asks them. The model is lesson 5's, as it is."""

from lessons.lesson05_heads.recipe import recipe as previous

INTRODUCES = (
    "minimtp.decode.rules.chains",
    "minimtp.decode.rules.trees",
    "minimtp.decode.rules.verify",
    "minimtp.decode.drafters.drafter",
    "minimtp.decode.drafters.tree_growth",
    "minimtp.decode.drafters.heads",
    "minimtp.decode.logits_processors",
    "minimtp.decode.stopping",
    "minimtp.decode.target",
    "minimtp.decode.round",
    "minimtp.decode.statistics",
    "minimtp.decode.policy.plan",
    "minimtp.decode.tree_round",
    "minimtp.decode.managed_drafter",
    "minimtp.decode.generation",
    "minimtp.decode.options",
)

recipe = previous
