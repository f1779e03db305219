"""Named recipes. Each entry lists the settings that differ from the defaults."""

from collections.abc import Mapping
from dataclasses import replace

from minimtp.training.recipe import Recipe
from minimtp.training.settings import Value, check_known

PRESETS: dict[str, dict[str, Value]] = {
    "tiny": {  # trains in seconds: for tests, and for trying the commands
        "context_length": 32,
        "num_layers": 1,
        "hidden_size": 32,
        "num_heads": 2,
        "num_kv_heads": 1,
        "intermediate_size": 64,
        "tokens": 8_192,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "checkpoint_every": 0,
        "evaluation_tokens": 4096,
    },
    "quick": {  # 0.8 million parameters, minutes on two cores; many small steps learn most
        "context_length": 128,
        "num_layers": 4,
        "hidden_size": 128,
        "num_kv_heads": 2,
        "intermediate_size": 352,
        "tokens": 1_800_000,
        "batch_size": 4,
        "learning_rate": 2e-3,
    },
    "laptop": {  # 6.0 million parameters
        "context_length": 256,
        "num_layers": 8,
        "hidden_size": 256,
        "num_kv_heads": 2,
        "intermediate_size": 704,
        "tokens": 2_500_000,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "checkpoint_every": 250,
    },
    "gpu": {  # 101 million parameters
        "context_length": 1024,
        "num_layers": 16,
        "hidden_size": 768,
        "num_heads": 12,
        "num_kv_heads": 4,
        "intermediate_size": 2048,
        "tokens": 500_000_000,
        "batch_size": 32,
        "learning_rate": 6e-4,
        "evaluation_tokens": 1_048_576,
    },
}

# The settings of training that starts from a pretrained model. Its weights must change little.
FINE_TUNING: dict[str, Value] = {
    "sequence_length": 512,
    "batch_size": 4,
    "tokens": 204_800,
    "learning_rate": 1e-4,
    "warmup_fraction": 0.05,
    "decay_fraction": 0.9,
    "weight_decay": 0.0,
    "checkpoint_every": 20,
    "evaluation_tokens": 16_384,
}

# The settings of training heads alone for a pretrained model whose trunk does not change: about 256
# positions and a tenth of a second of head per step. Its states are stored, so further epochs are
# cheap. So checkpoints, and the evaluation that comes with each, are rare.
HEAD_TRAINING: dict[str, Value] = {
    "heads": "token_conditioned",
    "draft_depth": 4,
    "freeze_trunk": True,
    "head_targets": "trunk",
    "head_stride": 4,
    "head_start_scale": 0.5,
    "head_loss_weight": 1.0,
    "final_head_loss_weight": 1.0,
    "head_loss_decay": 0.9,
    "draft_vocabulary_size": 8192,
    "sequence_length": 512,
    "batch_size": 2,
    "tokens": 1_048_576,
    "learning_rate": 1.5e-3,
    "warmup_fraction": 0.06,
    "decay_fraction": 0.9,
    "weight_decay": 0.0,
    "store_states": True,
    "checkpoint_every": 1000,
    "evaluation_tokens": 16_384,
}


def fine_tuning(sizes: Mapping[str, Value]) -> dict[str, Value]:
    """Return the settings of training that starts from a pretrained model of these sizes, by the
    names of a recipe.
    """
    return _fitted(FINE_TUNING, sizes)


def head_training(sizes: Mapping[str, Value]) -> dict[str, Value]:
    """Return the settings of training heads alone for a pretrained model of these sizes, by the
    names of a recipe. A small vocabulary is drafted as a whole.
    """
    settings = _fitted(HEAD_TRAINING, sizes)
    if settings["vocabulary_size"] < 2 * HEAD_TRAINING["draft_vocabulary_size"]:
        del settings["draft_vocabulary_size"]
    return settings


def _fitted(settings: Mapping[str, Value], sizes: Mapping[str, Value]) -> dict[str, Value]:
    """Return the settings with these sizes, and with sequences that fit the context."""
    length = min(settings["sequence_length"], sizes["context_length"])
    return {**settings, **sizes, "sequence_length": length}


def preset(name: str, **changes: Value) -> Recipe:
    """Return the preset with some settings changed.

    Raises UserError for an unknown preset or setting.
    """
    check_known("preset", name, PRESETS)
    return Recipe.from_dict(PRESETS[name] | changes)


def with_heads(recipe: Recipe) -> Recipe:
    """Return the recipe with prediction heads, as `minimtp compare` trains them.

    The heads are detached until the decay. Detached heads do not update the trunk, so up to the
    decay the trunk is, bit for bit, the trunk of `recipe`.
    """
    return replace(
        recipe,
        heads="token_conditioned",
        draft_depth=7,
        head_targets="trunk",
        head_stride=4,
        # This weight has no measurable effect on the trunk, and improves the drafts.
        head_loss_weight=1.5,
        final_head_loss_weight=0.3,
        detach_until=1.0 - recipe.decay_fraction,
    )
