"""Recipes with a name. Each entry lists where a preset differs from the recipe's defaults."""

from minimtp.training.recipe import Recipe, check_known

PRESETS: dict[str, dict[str, object]] = {
    "tiny": {  # seconds: for tests and for trying the commands
        "context": 32, "layers": 1, "width": 32, "attention_heads": 2, "key_value_heads": 1, "feed_forward": 64,
        "tokens": 8_192, "batch": 4, "learning_rate": 1e-2, "checkpoint_every": 0, "evaluate_bytes": 4_096,
    },
    "quick": {  # 0.8 million parameters, minutes on two cores: many small steps of short windows learn most in that time
        "context": 128, "layers": 4, "width": 128, "key_value_heads": 2, "feed_forward": 352, "tokens": 1_400_000, "batch": 4,
        "learning_rate": 2e-3,
    },
    "laptop": {  # 6.0 million parameters
        "context": 256, "layers": 8, "width": 256, "key_value_heads": 2, "feed_forward": 704, "tokens": 2_500_000, "batch": 4,
        "learning_rate": 1e-3, "checkpoint_every": 250,
    },
    "gpu": {  # 101 million parameters
        "context": 1024, "layers": 16, "width": 768, "attention_heads": 12, "key_value_heads": 4, "feed_forward": 2048,
        "tokens": 500_000_000, "batch": 32, "learning_rate": 6e-4, "evaluate_bytes": 1_048_576,
    },
}  # fmt: skip


def preset(name: str, **changes: object) -> Recipe:
    """The named preset with `changes` laid over it. Raises UserError for unknown presets and settings."""
    check_known("preset", name, PRESETS)
    return Recipe.from_dict(PRESETS[name] | changes)
