"""Folders with an EAGLE-3 head, which vLLM, SGLang and the library speculators load.

The weights are written as those of a model (huggingface/writer.py): float32 or bfloat16, packed
matrices as the numbers that they stand for. The form of speculators repeats the token table of the
model, like the library's own files: without it, version 0.9.0 computes with uninitialized numbers.
"""

import math
from pathlib import Path

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters
from minimtp.errors import UserError, shown
from minimtp.formats.eagle3.config import head_config, read_settings
from minimtp.formats.eagle3.layout import FOLDER_NAMES, IDS, MEMBERS, SPECULATORS_NAMES, head_layout
from minimtp.formats.eagle3.settings import (
    empty_heads,
    other_layers,
    require_output,
    require_same_table,
    sorted_rows,
)
from minimtp.formats.huggingface.config import ADVICE, FILE_NAME
from minimtp.formats.huggingface.reader import fill, require_finite, require_nothing_else
from minimtp.formats.huggingface.shards import StoredTensor, open_shards
from minimtp.formats.huggingface.writer import Content, stored_tensors
from minimtp.formats.layout import Part
from minimtp.model.heads import Eagle3Heads, MultiTokenModel
from minimtp.model.loaded import LoadedModel
from minimtp.quant.packed_matrix import PackedMatrix

TABLE, OUTPUT = f"{FOLDER_NAMES.embedding}.weight", f"{FOLDER_NAMES.model.output}.weight"


def head_content(
    model: MultiTokenModel, dtype: str, form: str, verifier: str | None = None
) -> Content:
    """Return the content of the folder of the model's heads, in full precision or packed.

    form, verifier: see `head_config`.
    """
    heads, vocabulary = model.heads, model.heads.draft_vocabulary
    output = model.draft_output_matrix
    names = SPECULATORS_NAMES if form == "speculators" else FOLDER_NAMES
    parameters = head_layout(heads, names, output.shape[0])
    modules = dict(heads.named_modules()) | {"output": output}
    if form == "speculators":
        modules["embedding"] = model.trunk.embedding
        parameters = [*parameters, ("embedding.weight", [Part(TABLE, model.trunk.embedding.shape)])]
    tensors = stored_tensors(parameters, modules, heads.config.head_dim, dtype)
    if vocabulary is not None:
        ids = vocabulary.ids.data.astype(np.int64)
        tensors[IDS] = ids - np.arange(len(ids))
        tensors[MEMBERS] = np.isin(np.arange(model.config.vocabulary_size), ids)
    return Content({FILE_NAME: head_config(model, dtype, form, verifier)}, tensors)


def caveats(model: MultiTokenModel, dtype: str) -> list[str]:
    """Return a sentence for each property of the head that the folder cannot hold."""
    packed = any(isinstance(module, PackedMatrix) for _, module in model.heads.named_modules())
    sentences = []
    if packed and dtype == "bfloat16":
        sentences.append(
            "bfloat16 rounds the quantized weights of the head once more: float32 holds them "
            "exactly"
        )
    if max(model.heads.layers) == model.config.num_layers:
        sentences.append(
            "the head reads the last layer's output, which SGLang does not give to a head: "
            f"{other_layers(model.config.num_layers)} for SGLang"
        )
    return sentences


def load_head(path: str | Path, target: LoadedModel) -> Eagle3Heads:
    """Load the head of a folder, onto the device of the target.

    Raises UserError if the folder holds no head that can be loaded, or one for another model.
    """
    folder = Path(path)
    with open_shards(folder) as tensors:
        numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
        ids = _ids(tensors.pop(IDS, None))
        tensors.pop(MEMBERS, None)
        settings = read_settings(folder, ids, OUTPUT in tensors, numbers)
        heads = empty_heads(settings, target, str(folder))
        rows = 0
        if settings.own_output:
            rows = require_output(settings, tensors[OUTPUT].shape, OUTPUT, str(folder))
        names = SPECULATORS_NAMES if any(n.startswith("layers.") for n in tensors) else FOLDER_NAMES
        parameters = head_layout(heads, names, rows)
        fill(folder, heads, parameters, heads.config.head_dim, tensors)
        table = tensors.pop(TABLE, None)
        require_nothing_else(folder, tensors)
        if table is not None:
            _require_same_table(table, folder, target)
    require_finite(folder, heads)
    if heads.output is not None:
        heads.output.weight.data = sorted_rows(ids, heads.output.weight.data)
    xp = array_module(target.model.trunk.final_norm.weight.data)
    map_parameters(heads, xp.asarray)
    return heads


def _ids(differences: StoredTensor | None) -> np.ndarray | None:
    """Return the draft vocabulary (V',) of d2t, or None without one."""
    if differences is None:
        return None
    kind = differences.file.entries[differences.name].dtype
    if kind not in ("I64", "I32") or len(differences.shape) != 1:
        raise UserError(
            f"{differences.file.path}: {IDS} has the type {kind} and the shape "
            f"{shown(differences.shape)}, but must be a list of I64: {ADVICE}"
        )
    found = differences.file.read(IDS)
    return found.astype(np.int64) + np.arange(len(found))


def _require_same_table(table: StoredTensor, folder: Path, target: LoadedModel) -> None:
    shape = target.config.vocabulary_size, target.config.hidden_size
    if table.shape != shape:
        raise UserError(
            f"{folder} holds {TABLE} of shape {shown(table.shape)}, but {target.path} needs "
            f"{shape}: give a head that was trained for this model"
        )
    own = np.empty(shape, np.float32)
    table.read_into(own)
    require_same_table(own, target, str(folder))
