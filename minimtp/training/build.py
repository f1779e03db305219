"""From a recipe to a model, and from stored arrays to a model's parameters.

Heads and rounding are loaded by the recipes that have them.
"""

from typing import TYPE_CHECKING

from minimtp.backend import numpy as np
from minimtp.engine.module import Module
from minimtp.errors import UserError
from minimtp.model.config import ModelConfig
from minimtp.model.transformer import LanguageModel as Model
from minimtp.model.transformer import Transformer
from minimtp.training.recipe import SETTINGS, Recipe

if TYPE_CHECKING:
    from minimtp.quant.qat.spec import QuantizationSpec

Arrays = dict[str, np.ndarray]

MODEL_SETTINGS = [
    name for name, setting in SETTINGS.items() if setting.metadata["group"] == "model"
]


def build_model(recipe: Recipe, rng: np.random.Generator | None) -> Model:
    """The recipe's model with its first weights, in float32 on the CPU, not yet rounded.

    rng: None leaves the weights unset, which costs nothing, for a model that is loaded.
    The trunk is drawn before the heads: with one seed it is the same trunk whatever heads there are.
    """
    shape = ModelConfig(**{name: getattr(recipe, name) for name in MODEL_SETTINGS})
    model: Model = Transformer(shape, rng)
    if recipe.heads != "none":
        from minimtp.model.heads import HEADS, MultiTokenModel

        model = MultiTokenModel(model, HEADS[recipe.heads](recipe.draft_depth, shape, rng))
    if recipe.quantization == "qat" and recipe.weight_scales != "grid":
        from minimtp.quant.qat.prepare import add_learned_step_parameters

        add_learned_step_parameters(model, quantization_spec(recipe))
    return model


def quantization_spec(recipe: Recipe) -> "QuantizationSpec":
    """How the recipe rounds, whether or not it does."""
    from minimtp.quant.qat.spec import QuantizationSpec

    return QuantizationSpec(
        weights=recipe.weight_grid, embedding=recipe.embedding_grid, output=recipe.output_grid, heads=recipe.head_grid,
        activations=recipe.activations, straight_through=recipe.straight_through, scales=recipe.weight_scales,
        cache=recipe.kv_cache,
    )  # fmt: skip


def fill(model: Module, arrays: Arrays, source: object) -> None:
    """Give every parameter its array. Raises UserError unless names and shapes are exactly the model's."""
    parameters = dict(model.named_parameters())
    missing, unexpected = (
        sorted(parameters.keys() - arrays.keys()),
        sorted(arrays.keys() - parameters.keys()),
    )
    if missing:
        raise UserError(
            f"{source} lacks {_some(missing)}: it is incomplete, use another run folder"
        )
    if unexpected:
        raise UserError(
            f"{source} has {_some(unexpected)}, which this model does not: use another run folder"
        )
    for name, parameter in parameters.items():
        if arrays[name].shape != parameter.shape:
            raise UserError(
                f"{source} has {name} of shape {arrays[name].shape} and the model needs {parameter.shape}: "
                "use another run folder"
            )
        parameter.data[...] = arrays[name]


def transplant(arrays: Arrays, source: Recipe, target: Recipe) -> Arrays:
    """The stored arrays that a model of the `target` recipe can take over, under the names they have there.

    The trunk always; the heads when both have heads of the same kind (those of a further depth start fresh).
    Raises UserError when the trunks differ.
    """
    different = [
        name
        for name in source.differences(target)
        if name in MODEL_SETTINGS and name != "context_length"
    ]
    if different:
        name = different[0]
        raise UserError(
            f"the run to start from has {name} {getattr(source, name)}, and {name} {getattr(target, name)} was asked for: "
            "leave the model's settings out to take them over"
        )
    prefix = "" if target.heads == "none" else "trunk."
    taken = {}
    other_steps = {"quantization", "weight_scales", "weight_grid", "head_grid"} & set(
        source.differences(target)
    )
    for name, array in arrays.items():
        if name.endswith((".log_steps", ".offsets")) and other_steps:
            continue
        if not name.startswith("heads."):
            taken[prefix + name.removeprefix("trunk.")] = array
        elif source.heads == target.heads and _head_number(name) < target.draft_depth:
            taken[name] = array
    return taken


def _head_number(name: str) -> int:
    """The position of the head that a parameter like heads.steps.3.norm.weight belongs to."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
