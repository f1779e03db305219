"""A model of given sizes whose weights are random, to measure how fast it decodes.

The speed of plain decoding and of a pass depends on the sizes of a model and on the grid of its
weights, not on their values. So a few kilobytes, the config.json of a model, are enough to learn
how fast it would be on this machine.
"""

from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.files import kind_at
from minimtp.formats.huggingface.config import FILE_NAME, read_config, recipe_of
from minimtp.machine import require_memory
from minimtp.model.transformer import LanguageModel
from minimtp.quant.ptq.methods import quantize_after_training
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model


def random_model(path: str | Path, grid: str, seed: int) -> LanguageModel:
    """Return a model of the sizes that the config.json at `path`, or in that folder, describes. Its
    random weights are rounded to the grid.

    Raises UserError if the configuration is missing or not supported, if the matrices do not fit
    the grid, or if the memory is too small.
    """
    folder = Path(path)
    if kind_at(path) == "file" and folder.name == FILE_NAME:
        folder = folder.parent
    if kind_at(folder / FILE_NAME) != "file":
        raise UserError(
            f"{path} has no {FILE_NAME}, which gives the sizes for random weights: give the folder "
            "of a model in the form of transformers"
        )
    recipe = recipe_of(read_config(folder), folder / FILE_NAME)
    spec = QuantizationSpec(weights=grid)
    require_memory(2 * 4 * recipe.trunk_parameters(), f"two copies of {path} as float32")
    model = build_model(recipe, np.random.default_rng(seed))
    return quantize_after_training(model, spec)
