"""From a recipe to a model, and from stored arrays to the parameters of a model.

Heads and quantization are imported only for recipes that use them.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.module import Indices, Module
from minimtp.errors import UserError, shown
from minimtp.model.config import ModelConfig
from minimtp.model.transformer import LanguageModel, Transformer
from minimtp.training.recipe import SETTINGS, Recipe
from minimtp.training.recipe_checks import ONE_HEAD, chosen_layers, is_larger

if TYPE_CHECKING:
    from minimtp.quant.qat.spec import QuantizationSpec

Arrays = dict[str, Array]

# The ends of the names of a grid's parameters.
STEPS = (".log_steps", ".offsets", ".start_steps", ".start_minima")
DRAFT_VOCABULARY = "heads.draft_vocabulary.ids"  # the name of the array in a checkpoint

MODEL_SETTINGS = [name for name, field in SETTINGS.items() if field.metadata["group"] == "model"]


def build_model(recipe: Recipe, rng: np.random.Generator | None) -> LanguageModel:
    """Return the model of the recipe with initial weights, in float32 on the CPU, not quantized.

    rng: None leaves the weights unset, for a model that is loaded.

    The weights of the trunk are sampled before the weights of the heads, so one seed gives the same
    trunk with any heads.
    """
    config = model_config(recipe)
    model: LanguageModel = Transformer(config, rng)
    if recipe.heads != "none":
        from minimtp.model.heads import HEADS, LargerTokenConditionedHeads, MultiTokenModel

        options = {}
        if recipe.heads in ONE_HEAD:
            options["draft_vocabulary_size"] = recipe.draft_vocabulary_size
            options["start_scale"] = recipe.head_start_scale
        make = HEADS[recipe.heads]
        if recipe.heads == "token_conditioned" and is_larger(recipe):
            make = LargerTokenConditionedHeads
            options["layers"] = chosen_layers(recipe) or ()
            options["intermediate_size"] = recipe.head_intermediate_size
        if recipe.heads == "eagle3":
            config = replace(config, num_kv_heads=recipe.head_num_kv_heads or config.num_heads)
            options |= {
                "layers": chosen_layers(recipe),
                "own_output": recipe.own_draft_output,
                "norm_before_residual": recipe.norm_before_residual,
                "norm_before_fc": recipe.norm_before_fc,
            }
        heads = make(recipe.draft_depth, config, rng, **options)
        model = MultiTokenModel(model, heads)
    if recipe.quantization == "qat" and recipe.weight_scales != "grid":
        from minimtp.quant.qat.prepare import add_learned_step_parameters

        add_learned_step_parameters(model, quantization_spec(recipe))
    return model


def model_config(recipe: Recipe) -> ModelConfig:
    """Return the sizes of the recipe's trunk."""
    return ModelConfig(**{name: getattr(recipe, name) for name in MODEL_SETTINGS})


def quantization_spec(recipe: Recipe) -> "QuantizationSpec":
    """Return how the recipe would quantize, even if it does not."""
    from minimtp.quant.qat.spec import QuantizationSpec

    return QuantizationSpec(
        weights=recipe.weight_grid,
        embedding=recipe.embedding_grid,
        output=recipe.output_grid,
        heads=recipe.head_grid,
        activations=recipe.activations,
        straight_through=recipe.straight_through,
        scales=recipe.weight_scales,
        cache=recipe.kv_cache,
    )


def fill(model: Module, arrays: Mapping[str, Array], source: str | Path) -> None:
    """Copy the arrays into the parameters and Indices of the same names. source: named in errors.

    Raises UserError unless the model has exactly these names and shapes, every weight is a finite
    number, and all indices are valid.
    """
    parameters, indices = dict(model.named_parameters()), dict(model.named_indices())
    known = parameters.keys() | indices.keys()
    missing, unexpected = sorted(known - arrays.keys()), sorted(arrays.keys() - known)
    if missing:
        raise UserError(
            f"{source} lacks {_some(missing)}, so it is incomplete: use another run folder"
        )
    if unexpected:
        raise UserError(
            f"{source} has {_some(unexpected)}, which this model does not have: "
            "use another run folder"
        )
    for name, parameter in parameters.items():
        if arrays[name].shape != parameter.shape:
            raise UserError(
                f"{source} has {name} of shape {shown(arrays[name].shape)}, "
                f"but the model needs {parameter.shape}: use another run folder"
            )
        if arrays[name].dtype.kind != "f":
            raise UserError(
                f"{source} has {name} of type {arrays[name].dtype}, but weights must be floating "
                "point: use another run folder"
            )
        with np.errstate(over="ignore"):  # of float64: what is too large is refused below
            parameter.data[...] = arrays[name]
        extremes = (parameter.data.min(), parameter.data.max()) if parameter.data.size else ()
        if not all(isfinite(float(extreme)) for extreme in extremes):
            raise UserError(
                f"{source} has weights in {name} that are NaN or infinite: use another run folder"
            )
    for name, held in indices.items():
        found = arrays[name]
        fits = found.shape == held.data.shape and found.dtype == np.int32
        if not (fits and Indices(found, held.limit).are_valid()):
            raise UserError(
                f"{source}: {name} is not a list of {len(held.data)} increasing tokens: "
                "use another run folder"
            )
        held.data = to_numpy(found)


def transplant(arrays: Mapping[str, Array], source: Recipe, target: Recipe) -> Arrays:
    """Return the arrays of a `source` model that a `target` model can load, under its names.

    These are the trunk, and the heads if both models have heads of the same kind. Heads of greater
    depths start with initial weights. A draft vocabulary of another size is left out.

    Raises UserError if the trunks differ.
    """
    for name in source.differences(target):
        if name in MODEL_SETTINGS and name != "context_length":
            raise UserError(
                f"the run to start from has {name} {getattr(source, name)}, but {name} "
                f"{getattr(target, name)} was requested: leave out the settings of the model "
                "to use those of that run"
            )
    differences = set(source.differences(target))
    prefix = "" if target.heads == "none" else "trunk."
    taken = {}
    for name, array in arrays.items():
        if name.endswith(STEPS) and _rounding_of(name) & differences:
            continue
        if name == DRAFT_VOCABULARY and len(array) != target.draft_vocabulary_size:
            continue
        if _head_settings(name) & differences:
            continue
        if not name.startswith("heads."):
            taken[prefix + name.removeprefix("trunk.")] = array
        elif source.heads == target.heads and _head_number(name) < target.draft_depth:
            taken[name] = array
    return taken


def _rounding_of(name: str) -> set[str]:
    """Return the settings on which the steps of a matrix depend."""
    part = name.removeprefix("trunk.").partition(".")[0]
    grids = {
        "heads": {"weight_grid", "head_grid"},
        "embedding": {"embedding_grid"},
        "output": {"embedding_grid", "output_grid"},
    }.get(part, {"weight_grid"})
    return {"quantization", "weight_scales"} | grids


def _head_settings(name: str) -> set[str]:
    """Return the settings of the heads on which a parameter depends."""
    settings = {
        "heads.output.": {"draft_vocabulary_size", "own_draft_output"},
        "heads.fc.": {"head_layers"},
        "heads.layer_norms.": {"head_layers"},
        "heads.head.feed_forward": {"head_intermediate_size"},
    }
    return next((own for start, own in settings.items() if name.startswith(start)), set())


def _head_number(name: str) -> int:
    """Return the position of the head of a parameter such as heads.steps.3.norm.weight."""
    kind, number = name.split(".")[1:3]
    return int(number) if kind == "steps" else 0


def _some(names: list[str]) -> str:
    return shown(", ".join(names[:3]), 120) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
