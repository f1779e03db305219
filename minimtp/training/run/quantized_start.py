"""A run that starts from the codes and steps of a packed model (quant/qat/start_steps.py).

The packed model is a folder of `minimtp quantize`, or any other packed model. It has to be made
from the weights that the run starts from, on the grids of the recipe, because the trained model has
the form that the recipe describes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.backend import Array, numpy, to_numpy
from minimtp.errors import UserError
from minimtp.model.tokenizer import same_tokens
from minimtp.training.build import MODEL_SETTINGS, STEPS, Arrays, quantization_spec
from minimtp.training.recipe import Recipe
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.run.folder import LoadedRun, load_run
from minimtp.training.tokenizers.tokenizer import tokenizer_from_dict

if TYPE_CHECKING:  # runs without rounding do not need it
    from minimtp.quant.packed_matrix import PackedMatrix

FROM_START = "learned-from-start"
TABLE = "embedding.start_steps"


def check_steps(recipe: Recipe, source: Checkpoint | None, is_given: bool) -> None:
    """Raise UserError unless a quantized start is given exactly if the recipe needs one.

    source: the checkpoint that the run starts from, or None. is_given: whether a quantized start
    is.
    """
    follows = recipe.quantization == "qat" and recipe.weight_scales == FROM_START
    if is_given and not follows:
        raise UserError(
            "quantized_start needs quantization qat and weight_scales learned-from-start: set both"
        )
    if is_given and source is None:
        raise UserError(
            "quantized_start needs the full-precision weights that it was made from: name them "
            "with --from"
        )
    starts = {} if source is None or is_given else _start_steps(source)
    fixed = any(array.any() for name, array in starts.items() if name.endswith(TABLE))
    if follows and fixed and not (recipe.freeze_embeddings or recipe.freeze_trunk):
        raise UserError(
            "the token table has the codes of a quantized start, which training cannot change: set "
            "freeze_embeddings"
        )
    if follows and not is_given and not starts:
        raise UserError(
            "weight_scales learned-from-start needs steps to start from: give a packed model with "
            "--quantized-start, or start from a run that was trained this way"
        )


def _start_steps(source: Checkpoint) -> Arrays:
    return {k: array for k, array in source.parameters.items() if k.endswith(".start_steps")}


def read_quantized_start(given: Path | LoadedRun, source: Checkpoint, recipe: Recipe) -> LoadedRun:
    """Return the packed model to start from, loaded.

    Raises UserError if it does not fit the recipe or the model that the run starts from.
    """
    run = given if isinstance(given, LoadedRun) else load_run(given)
    if run.packed is None:
        raise UserError(
            f"{run.path} is not quantized: make the quantized start with minimtp quantize"
        )
    for name in run.recipe.differences(recipe):
        if name in MODEL_SETTINGS and name != "context_length":
            raise UserError(
                f"the quantized start {run.path} has {name} {getattr(run.recipe, name)}, but the "
                f"run has {name} {getattr(recipe, name)}: quantize the model of --from"
            )
    if not same_tokens(run.tokenizer, tokenizer_from_dict(source.tokenizer)):
        raise UserError(
            f"the quantized start {run.path} has another tokenizer than the model of --from: "
            "quantize that model"
        )
    spec = quantization_spec(recipe)
    for setting, found, wanted in (
        ("weight_grid", run.packed.weights, spec.weights),
        ("embedding_grid", run.packed.embedding, spec.embedding),
        ("output_grid", run.packed.output_grid, spec.output_grid),
    ):
        if found != wanted:
            raise UserError(
                f"the quantized start {run.path} has {setting} {found}, but the recipe has "
                f"{wanted}: use the same"
            )
    return run


def with_start(parameters: Arrays, start: LoadedRun, recipe: Recipe) -> Arrays:
    """Return the parameters with which training from `start` begins.

    parameters: those of the full-precision model, by name, as `transplant` returns them. The
    matrices of the trunk become masters of the packed values, and steps are added. What the packed
    model has in full precision, such as norms, replaces the parameters. Prediction heads stay as
    they are.
    Raises UserError if the token table cannot be kept exactly.
    """
    from minimtp.quant.packed_matrix import PackedEmbedding, PackedMatrix
    from minimtp.quant.qat.start_steps import masters_and_steps

    prefix = "" if recipe.heads == "none" else "trunk."
    result = {name: array for name, array in parameters.items() if not name.endswith(STEPS)}
    trunk = start.model.trunk
    for name, parameter in trunk.named_parameters():
        result[prefix + name] = to_numpy(parameter.data)
    for name, module in trunk.named_modules():
        if not isinstance(module, PackedMatrix):
            continue
        at, packed = f"{prefix}{name}", to_numpy(module.packed)
        weight = result[f"{at}.weight"]
        if isinstance(module, PackedEmbedding):
            table = _table(module, weight, packed, start.path, recipe.freeze_embeddings)
            result |= {f"{at}.{part}": array for part, array in table.items()}
        else:
            master, steps = masters_and_steps(module.grid, weight, packed)
            result[f"{at}.weight"], result[f"{at}.start_steps"] = master, steps
    return result


def _table(
    module: "PackedMatrix", weight: Array, packed: Array, path: Path, frozen: bool
) -> Arrays:
    """Return the parameters of a table whose rounded form is the packed one, by the last part of
    their names: the full-precision weights if the grid's own rule rounds them to it, else the
    packed values, with their scales if the rule would choose others.
    """
    from minimtp.quant import packing
    from minimtp.quant.qat.start_steps import table_scales

    grid = module.grid

    def is_kept(table: Array) -> bool:
        return numpy.array_equal(packing.quantize(grid, table, "the token table"), packed)

    if is_kept(weight):
        return {"weight": weight}
    values = packing.dequantize(grid, packed)
    if is_kept(values):
        return {"weight": values}
    scales = table_scales(grid, packed)
    if not frozen or not scales:
        raise UserError(
            f"the token table of {path} was not rounded to nearest, so training cannot change it: "
            + (
                "set freeze_embeddings"
                if scales
                else "quantize the model with a table on the grid q8_0"
            )
        )
    return {"weight": values} | dict(zip(("start_steps", "start_minima"), scales, strict=False))
