"""Recipes reject invalid settings. Schedules depend only on the step."""

import dataclasses
import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.engine.flat import parameter_count
from minimtp.errors import UserError
from minimtp.training import recipe as recipe_module
from minimtp.training import schedule
from minimtp.training.build import MODEL_SETTINGS, build_model
from minimtp.training.presets import PRESETS, fine_tuning, head_training, preset
from minimtp.training.recipe import HIDDEN_BY_DEFAULT, SETTINGS, Recipe
from minimtp.training.settings import GROUPS, Range, kind_of
from tests.helpers.strategies import recipes

RANGES = {
    name: s.metadata["allowed"]
    for name, s in SETTINGS.items()
    if isinstance(s.metadata["allowed"], Range)
}


@given(recipes())
def test_a_recipe_read_from_its_json_is_the_same_recipe(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_a_misspelt_key_is_an_error_that_names_the_closest_one():
    with pytest.raises(
        UserError, match="unknown recipe key 'learning_rat': did you mean learning_rate"
    ):
        Recipe.from_dict({"learning_rat": 0.1})


def test_a_key_unlike_any_other_is_an_error_that_lists_all_keys():
    with pytest.raises(UserError, match="known are vocabulary_size, context"):
        Recipe.from_dict({"zzzzzz": 1})


@pytest.mark.parametrize("name", RANGES)
def test_a_number_outside_its_range_is_refused_with_the_name_of_the_setting(name):
    allowed, kind = RANGES[name], kind_of(SETTINGS[name])
    outside = [allowed.low - 1, allowed.high * 2 + 1] + ([allowed.low] if allowed.open else [])
    for value in [kind(value) for value in outside] + (
        [math.nan, math.inf] if kind is float else []
    ):
        with pytest.raises(UserError, match=f"^{name} must be "):
            Recipe(**{name: value})


@pytest.mark.parametrize("name", SETTINGS)
def test_a_value_of_the_wrong_type_is_refused_with_the_name_of_the_setting(name):
    wrong = {int: 1.5, float: "fast", bool: 1, str: 3}[kind_of(SETTINGS[name])]
    with pytest.raises(UserError, match=f"^{name} must be "):
        Recipe(**{name: wrong})


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"hidden_size": 130}, "cannot be divided equally among 4 query heads"),
        ({"num_kv_heads": 3}, "cannot share 3 key/value heads"),
        ({"hidden_size": 12}, "gets 3 numbers"),
        ({"draft_depth": 3}, "needs prediction heads"),
        ({"heads": "parallel", "draft_depth": 0}, "predict nothing"),
        ({"curriculum": "forward"}, "needs prediction heads"),
        ({"freeze_trunk": True}, "nothing to train"),
        ({"draft_vocabulary_size": 64}, "token_conditioned or eagle3 heads only"),
        (
            {"heads": "sequential", "head_start_scale": 0.5},
            "token_conditioned or eagle3 heads only",
        ),
        (
            {"heads": "parallel", "draft_vocabulary_size": 64},
            "token_conditioned or eagle3 heads only",
        ),
        (
            {"heads": "token_conditioned", "draft_vocabulary_size": 258},
            "258 exceeds vocabulary_size 257",
        ),
        ({"heads": "parallel", "norm_before_residual": True}, "eagle3 heads only"),
        ({"norm_before_fc": False}, "eagle3 heads only"),
        ({"heads": "eagle3", "head_num_kv_heads": 3}, "cannot share 3 key/value heads"),
        ({"heads": "eagle3", "head_layers": "1,2,9"}, "three numbers from 0 to 4"),
        ({"heads": "eagle3", "head_layers": "1,2"}, "three numbers from 0 to 4"),
        ({"heads": "eagle3", "head_layers": "1,-2,3"}, "three numbers from 0 to 4"),
        ({"heads": "token_conditioned", "head_layers": "1,5"}, "one to 8 numbers from 0 to 4"),
        ({"heads": "token_conditioned", "head_layers": "1,,2"}, "one to 8 numbers from 0 to 4"),
        ({"heads": "token_conditioned", "head_layers": "9" * 5000}, "one to 8 numbers from 0 to 4"),
        ({"heads": "token_conditioned", "head_layers": "\u0661"}, "one to 8 numbers from 0 to 4"),
        ({"heads": "sequential", "head_layers": "1"}, "token_conditioned or eagle3 heads only"),
        ({"heads": "eagle3", "head_intermediate_size": 64}, "token_conditioned heads only"),
        ({"head_intermediate_size": 64}, "token_conditioned heads only"),
        (
            {"heads": "token_conditioned", "quantization": "qat", "head_intermediate_size": 100},
            "head_intermediate_size 100 cannot be quantized in groups of 32",
        ),
        ({"quantization": "qat", "quantize_from": 1.0}, "never begins"),
        (
            {"quantization": "qat", "quantize_from": 0.96, "tokens": 10 * 8 * 256},
            "never begins to quantize within 10 steps",
        ),
        ({"quantization": "qat", "hidden_size": 48, "num_heads": 4}, "groups of 32"),
        ({"quantization": "qat", "intermediate_size": 100}, "groups of 32"),
        ({"warmup_fraction": 0.7, "decay_fraction": 0.4}, "must not exceed 1"),
        ({"tokens": 100}, "do not fill one step"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings_, words):
    with pytest.raises(UserError, match=words):
        Recipe(**settings_)


def test_the_default_draft_depth_depends_on_the_heads_and_is_zero_without_heads():
    assert Recipe(heads="parallel").draft_depth == 7
    assert Recipe().draft_depth == 0


def test_a_setting_that_takes_any_number_accepts_a_whole_number():
    assert Recipe(max_gradient_norm=2) == Recipe(max_gradient_norm=2.0)


def test_every_setting_has_a_group_and_help_and_appears_in_the_description():
    unusual = {"head_dim": 48, "rope_scaling": "linear:2", "qkv_bias": True, "qk_norm": True}
    unusual |= {"sequence_length": 32, "draft_vocabulary_size": 64, "head_start_scale": 0.5}
    unusual |= {"head_layers": "0,1,4", "head_num_kv_heads": 2, "own_draft_output": True}
    unusual |= {"norm_before_fc": False, "norm_before_residual": True}
    described = Recipe(heads="eagle3", **unusual).describe()
    larger = {"heads": "token_conditioned", "head_intermediate_size": 64}
    described += Recipe(**larger).describe()
    assert {*unusual, "head_intermediate_size"} == set(HIDDEN_BY_DEFAULT)
    assert not any(f" {name} " in Recipe().describe() for name in HIDDEN_BY_DEFAULT)
    for name, setting in SETTINGS.items():
        assert setting.metadata["group"] in GROUPS
        assert setting.metadata["help"]
        assert f" {name} " in described


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().hidden_size = 64


@settings(max_examples=20)
@given(recipes(heads="none", draft_depth=0, curriculum="none"))
def test_a_recipe_counts_the_parameters_of_its_model(recipe):
    assert (
        parameter_count(build_model(recipe, np.random.default_rng(0))) == recipe.trunk_parameters()
    )


def test_the_same_seed_gives_the_same_trunk_with_any_heads():
    plain = build_model(preset("tiny"), np.random.default_rng(3))
    with_heads = build_model(preset("tiny", heads="sequential"), np.random.default_rng(3))
    for one, other in zip(plain.parameters(), with_heads.trunk.parameters(), strict=True):
        assert np.array_equal(one.data, other.data)


def test_presets_are_valid_and_have_the_documented_sizes():
    sizes = {name: preset(name).trunk_parameters() for name in PRESETS}
    assert sizes["tiny"] < 1e5 < sizes["quick"] < 2e6
    assert 5e6 <= sizes["laptop"] <= 30e6
    assert sizes["gpu"] >= 100e6


def test_an_unknown_preset_is_an_error_that_names_the_closest():
    with pytest.raises(UserError, match="did you mean laptop"):
        preset("labtop")


@given(
    st.integers(1, 10**6),
    st.floats(0, 0.999) | st.integers(1, 99).map(lambda percent: percent / 100),
)
def test_a_share_of_one_minus_the_decay_ends_at_the_first_step_of_the_decay(steps, decay):
    share = 1.0 - decay
    recipe = Recipe(
        tokens=steps * 8 * 256, decay_fraction=decay, warmup_fraction=0.0, detach_until=share
    )
    start = schedule.decay_start(recipe)
    assert 0 <= start <= steps and abs(start - share * steps) <= 0.5 + 1e-6
    assert recipe.step_at(0.0) == 0 and recipe.step_at(1.0) == steps
    assert not schedule.heads_are_detached(recipe, start)
    assert start == 0 or schedule.heads_are_detached(recipe, start - 1)
    if start < steps:
        assert (
            dataclasses.replace(
                recipe, quantization="qat", quantize_from=share
            ).first_quantized_step
            == start
        )


def test_the_choices_of_the_settings_are_those_of_the_packages_that_implement_them():
    from minimtp.engine import precision
    from minimtp.model.heads import HEADS
    from minimtp.quant import activations
    from minimtp.quant.grids import base
    from minimtp.quant.qat import kv_cache, spec

    assert recipe_module.ACTIVATIONS == activations.ACTIVATIONS
    assert recipe_module.CACHES == kv_cache.CACHES
    assert recipe_module.SCALES == spec.SCALES
    assert recipe_module.MASKS == base.MASKS
    assert recipe_module.HEADS == ("none", *HEADS)
    assert recipe_module.PRECISIONS[-2:] == precision.SIXTEEN_BITS


@pytest.mark.parametrize("name", RANGES)
def test_the_limits_in_a_message_are_accepted_and_the_value_in_it_is_not(name):
    """Digits that are left out must not make them untrue, as in "at most 1, not 1"."""
    allowed = RANGES[name]
    whole = kind_of(SETTINGS[name]) is int
    for limit, outwards in ((allowed.low, -math.inf), (allowed.high, math.inf)):
        step = 1 if outwards > 0 else -1
        just_outside = limit + step if whole else math.nextafter(limit, outwards)
        for value in (just_outside, 1 if allowed.high < 1 else just_outside):
            with pytest.raises(UserError) as error:
                Recipe.from_dict({name: value if whole else float(value)})
            numbers = re.search(
                r"must be (?:at least|more than) (\S+) and at most (\S+), not (\S+)$",
                str(error.value),
            ).groups()
            low, high, found = map(int if whole else float, numbers)
            assert high in allowed and found not in allowed
            assert low in allowed or (allowed.open and low == allowed.low)


@pytest.mark.parametrize(("vocabulary_size", "drafted"), [(49_152, 8192), (257, None)])
def test_heads_of_a_pretrained_model_draft_a_part_of_a_large_vocabulary_only(
    vocabulary_size, drafted
):
    sizes = {name: getattr(Recipe(), name) for name in MODEL_SETTINGS}
    sizes |= {"vocabulary_size": vocabulary_size, "context_length": 300}
    recipe = Recipe.from_dict(head_training(sizes))
    assert recipe.draft_vocabulary_size == drafted
    assert recipe.freeze_trunk and recipe.store_states and recipe.sequence_length == 300
    assert Recipe.from_dict(fine_tuning(sizes)).heads == "none"


def test_the_start_scale_changes_the_matrix_and_the_output_norm_of_a_new_head_and_nothing_else():
    recipe = preset("tiny", heads="token_conditioned", draft_depth=2)
    scaled = dataclasses.replace(recipe, head_start_scale=0.5)
    models = [build_model(each, np.random.default_rng(0)) for each in (recipe, scaled)]
    changed = {"heads.head.gate_candidate.weight", "heads.head.norm.weight"}
    for (name, one), (_, other) in zip(*(m.named_parameters() for m in models), strict=True):
        assert np.array_equal(other.data, one.data * (0.5 if name in changed else 1.0))


@pytest.mark.parametrize("count", range(1, 20))
def test_the_example_of_head_layers_in_a_message_is_accepted(count):
    settings = {"heads": "eagle3", "draft_depth": 1, "num_layers": count}
    for wrong in ("x", "0", f"0,0,{count + 1}", "\u00b2,0,0"):
        with pytest.raises(UserError) as refused:
            Recipe(**settings, head_layers=wrong)
        example = re.search(r"such as ([\d,]+), or auto", str(refused.value))[1]
        assert Recipe(**settings, head_layers=example).head_layers == example
