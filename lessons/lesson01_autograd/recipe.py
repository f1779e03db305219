"""What lesson 1 adds: the engine, and the settings that all lessons start from (a small model and a minute's budget)."""

from minimtp.training.recipe import Recipe

INTRODUCES = (
    "minimtp.errors",
    "minimtp.backend",
    "minimtp.engine.tensor",
    "minimtp.engine.ops",
    "minimtp.engine.gradcheck",
    "minimtp.training.recipe",
    "minimtp.training.presets",
)

recipe = Recipe(
    context=128, layers=3, width=128, attention_heads=4, key_value_heads=2, feed_forward=256,
    tokens=800_000, batch=4, learning_rate=3e-3, checkpoint_every=0, evaluate_bytes=65_536,
)  # fmt: skip
