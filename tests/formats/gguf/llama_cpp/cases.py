"""Small random models of every family, and packed ones, whose logits in llama.cpp are stored."""

import tempfile
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.formats.huggingface.config import read_config, recipe_of
from minimtp.formats.huggingface.reader import load_weights
from minimtp.model.transformer import LanguageModel
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from tests.formats.huggingface.folders import CONFIGURATIONS, configuration, write_folder

GRIDS = ("f16", "q8_0", "q4_0")  # of the matrices; the table is stored as ggml stores it
CASES = [(name, "f32") for name in CONFIGURATIONS] + [("llama", grid) for grid in GRIDS]
TOKENS = np.random.default_rng(8).integers(0, 257, 24)  # bytes, and the end of a document
ROWS, COLUMNS = [11, 23], slice(None, None, 4)  # the logits that are stored


def model_of(name: str, grid: str) -> LanguageModel:
    """Return a model whose vocabulary is that of `ByteTokenizer`."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_folder(Path(folder), {**configuration(name), "vocab_size": 257})
        model = build_model(recipe_of(read_config(path), path / "config.json"), None)
        load_weights(path, model)
    if grid == "f32":
        return model
    table = "f16" if grid == "f16" else "q8_0"
    return round_to_nearest(model, QuantizationSpec(grid, embedding=table, heads=grid))
