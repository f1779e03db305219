"""Lesson 1 adds the autograd engine. Its recipe is a small model, trained for about a minute."""

from minimtp.training.recipe import Recipe

INTRODUCES = (
    "minimtp.errors",
    "minimtp.quoting",
    "minimtp.files.paths",
    "minimtp.files.temporary",
    "minimtp.files.writing",
    "minimtp.files.one_writer",
    "minimtp.files",
    "minimtp.plots",
    "minimtp.arguments",
    "minimtp.extras",
    "minimtp.backend",
    "minimtp.engine",
    "minimtp.engine.broadcasting",
    "minimtp.engine.tensor",
    "minimtp.engine.ops",
    "minimtp.engine.gradcheck",
    "minimtp.training.settings",
    "minimtp.training.recipe_checks",
    "minimtp.training.recipe",
    "minimtp.training.presets",
)

recipe = Recipe(
    context_length=128, num_layers=3, hidden_size=128,
    num_heads=4, num_kv_heads=2, intermediate_size=256,
    tokens=800_000, batch_size=4, learning_rate=3e-3, checkpoint_every=0, evaluation_tokens=65_536,
)  # fmt: skip
