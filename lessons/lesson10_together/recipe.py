"""Lesson 10 adds the comparison. Everything is trained from the start, at lesson 3's rate."""

from dataclasses import replace

from lessons.lesson09_int4.recipe import recipe as previous

INTRODUCES = (
    "minimtp.decode.policy.cost",
    "minimtp.decode.policy.cost_identity",
    "minimtp.decode.policy.threads",
    "minimtp.decode.policy.estimates",
    "minimtp.decode.policy.planner",
    "minimtp.decode.policy.draft_modes",
    "minimtp.decode.policy.sources",
    "minimtp.decode.policy.registry",
    "minimtp.decode.policy.adaptive",
    "minimtp.decode.drafters.lookup",
    "minimtp.decode.drafters.ngram",
    "minimtp.decode.drafters.model",
    "minimtp.decode.drafters.function",
    "minimtp.decode.batch",
    "minimtp.decode.drafters.combined",
    "minimtp.model.draft_head",
    "minimtp.decode.drafters.deploy",
    "minimtp.decode.drafters.registry",
    "minimtp.decode.drafters.config",
    "minimtp.decode.decoder",
    "minimtp.bench.interleaved",
    "minimtp.bench.agreement",
    "minimtp.bench.memory",
    "minimtp.bench.table_text",
    "minimtp.training.quantize",
    "minimtp.compare.configurations",
    "minimtp.compare.result_cache",
    "minimtp.compare.result_file",
    "minimtp.compare.measurement",
    "minimtp.compare.claims",
    "minimtp.compare.report",
    "minimtp.compare.plot",
    "minimtp.compare.run",
    "minimtp.compare.schema",
)

recipe = replace(previous, learning_rate=3e-3)
