"""What lesson 6 adds: rules that accept or reject drafts, and the loop that asks them. The model is lesson 5's, as it is."""

from lessons.lesson05_heads.recipe import recipe as previous

INTRODUCES = (
    "minimtp.decode.chains",
    "minimtp.decode.trees",
    "minimtp.decode.verify",
    "minimtp.decode.drafters",
    "minimtp.decode.tree_drafting",
    "minimtp.decode.head_drafters",
    "minimtp.decode.processors",
    "minimtp.decode.stopping",
    "minimtp.decode.target",
    "minimtp.decode.rounds",
    "minimtp.decode.loop",
    "minimtp.decode.generate",
)

recipe = previous
