"""Small random models with eagle3 heads, one for each thing that a file can say about a head."""

import dataclasses
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import Tensor
from minimtp.formats.load import load_draft
from minimtp.model.heads import MultiTokenModel
from minimtp.model.loaded import LoadedModel
from minimtp.model.loss import following_tokens
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.recipe import Recipe
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer

DEPTH = 3
BASE = Recipe(
    vocabulary_size=257,
    context_length=64,
    num_layers=4,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
    heads="eagle3",
    draft_depth=DEPTH,
    head_layers="1,2,3",
    norm_before_fc=False,
    tokens=64,
    batch_size=1,
)
CASES = {
    "plain": {},
    "norm before fc": {"norm_before_fc": True},
    "norm before residual": {"norm_before_residual": True},
    "few key heads": {"head_num_kv_heads": 1},
    "other layers": {"head_layers": "0,2,4"},
    "output of its own": {"own_draft_output": True},
    "draft vocabulary": {"draft_vocabulary_size": 100},
    "untied, both": {
        "draft_vocabulary_size": 100, "own_draft_output": True, "tied_embeddings": False,
    },
    "llama3": {"rope_scaling": "llama3:4:1:4:16", "head_dim": 16},
    "linear": {"rope_scaling": "linear:2"},
    "qwen3": {"qk_norm": True, "head_dim": 16},
}  # fmt: skip
GRIDS = ("f16", "q8_0", "q4_0", "q4_1", "q5_0")
TOKENS = np.random.default_rng(8).integers(0, 257, 24 + DEPTH + 1)  # bytes, and the end token


def model_of(case: str, seed: int = 0) -> MultiTokenModel:
    """Return a model whose parameters are all random: zeros and ones would hide mistakes."""
    recipe = dataclasses.replace(BASE, **CASES[case])
    model, rng = build_model(recipe, np.random.default_rng(seed)), np.random.default_rng(seed + 1)

    def noise(array):
        if array.ndim == 1:
            return (1 + 0.3 * rng.standard_normal(array.shape)).astype(np.float32)
        return (1.2 * array.shape[1] ** -0.5 * rng.standard_normal(array.shape)).astype(np.float32)

    map_parameters(model, noise)
    if recipe.draft_vocabulary_size is not None:
        ids = rng.permutation(recipe.vocabulary_size)[: recipe.draft_vocabulary_size]
        model.heads.draft_vocabulary.ids.data = np.sort(ids).astype(np.int32)
    return model


def packed_model_of(grid: str) -> MultiTokenModel:
    """Return a model whose trunk and heads are packed on this grid, with a draft vocabulary."""
    table = "f16" if grid == "f16" else "q8_0"
    spec = QuantizationSpec(grid, embedding=table, heads=grid)
    return round_to_nearest(model_of("draft vocabulary"), spec)


def loaded(model: MultiTokenModel, path: str | Path = "model") -> LoadedModel:
    return LoadedModel(Path(path), model, ByteTokenizer())


def draft_logits(model: MultiTokenModel, tokens: np.ndarray = TOKENS) -> np.ndarray:
    """Return the logits of all steps at every position: (K, T, V')."""
    depth = model.heads.depth
    text, following = tokens[None, : -depth - 1], following_tokens(tokens[None], depth)
    hidden = Tensor(model.trunk_states(text).data)
    states = model.heads.states(hidden, following, model.trunk)
    return np.stack([model.draft_logits(state).data[0] for state in states])


def read_back(model: MultiTokenModel, path: str | Path) -> MultiTokenModel:
    """Return the trunk of the model with the head that was written to `path`."""
    return load_draft(path, loaded(model.trunk)).attached_to(model)
