"""The configurations differ in their heads and their rounding, and in nothing else."""

from minimtp.compare.configurations import recipes
from minimtp.training.presets import preset
from minimtp.training.schedule import decay_start, heads_are_detached

HEAD_SETTINGS = {
    "heads",
    "draft_depth",
    "head_loss_weight",
    "final_head_loss_weight",
    "head_stride",
    "head_targets",
    "detach_until",
}


def test_the_recipes_differ_in_heads_and_rounding_only():
    wanted = recipes(preset("quick"))
    assert set(wanted["standard"].differences(wanted["mtp"])) <= HEAD_SETTINGS
    assert wanted["mtp"].differences(wanted["mtp_qat_int4"]) == ["quantization", "quantize_from"]


def test_rounding_begins_and_heads_are_attached_when_the_decay_begins():
    for recipe in recipes(preset("quick")).values():
        start = decay_start(recipe)
        assert recipe.first_quantized_step in (None, start)
        if recipe.heads != "none":
            assert heads_are_detached(recipe, start - 1)
            assert not heads_are_detached(recipe, start)
