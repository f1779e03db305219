"""Lesson 12 adds the plan. The settings are lesson 11's, unchanged."""

from lessons.lesson11_real_model.recipe import recipe as previous

INTRODUCES = (
    "minimtp.plan.costs.sizes",
    "minimtp.plan.costs.memory",
    "minimtp.plan.costs.cost",
    "minimtp.plan.costs.speculation",
    "minimtp.plan.serving",
    "minimtp.plan.settings",
    "minimtp.plan.candidates",
    "minimtp.plan.planning",
    "minimtp.plan.plot",
    "minimtp.plan.report",
    "minimtp.plan.command",
    "minimtp.plan.measured",
    "minimtp.bench.decode.prompts",
    "minimtp.plan.measure_run",
    "minimtp.plan.evidence.published",
    "minimtp.plan.evidence.claims",
    "minimtp.plan.evidence.compared",
    "minimtp.plan.evidence.decoding",
    "minimtp.plan.evidence.validation",
)
DETAILS = "how long users wait, the verdicts on published claims, and how good predictions are"

recipe = previous
