"""Lesson 5 adds prediction heads, trained on top of lesson 3's frozen model."""

from dataclasses import replace

from lessons.lesson04_generating.recipe import recipe as previous

INTRODUCES = (
    "minimtp.model.heads.draft_vocabulary",
    "minimtp.model.heads.heads",
    "minimtp.model.heads.unrolled_attention",
    "minimtp.model.heads.eagle3",
    "minimtp.model.heads.parallel",
    "minimtp.model.heads.sequential",
    "minimtp.model.heads.token_conditioned",
    "minimtp.model.heads.larger_token_conditioned",
    "minimtp.model.heads.multi_token_model",
    "minimtp.model.heads",
)
STARTS_FROM = 3

recipe = replace(previous, heads="token_conditioned", draft_depth=7, freeze_trunk=True)
