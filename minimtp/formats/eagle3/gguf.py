"""GGUF files of EAGLE-3 heads, which llama.cpp runs with --spec-type draft-eagle3.

Matrices keep their types, as in the file of a model (gguf/writer.py). llama.cpp rotates adjacent
channels of a head, like our models. It takes the output from the model if the file has none, so an
output over all tokens is left out unless it is the head's own.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.errors import UserError, naming, shown
from minimtp.formats.eagle3.layout import GGUF_NAMES, IDS, head_layout
from minimtp.formats.eagle3.settings import (
    DEPTH,
    HeadSettings,
    empty_heads,
    other_layers,
    require_output,
    require_same_table,
    sorted_rows,
)
from minimtp.formats.gguf.container import GgufFile, open_gguf
from minimtp.formats.gguf.metadata import HEAD, Metadata, is_declared, read_head_metadata
from minimtp.formats.gguf.reader import (
    read_numbers,
    read_weights,
    recipe_of,
    require_nothing_else,
    with_weights,
)
from minimtp.formats.gguf.rope_scaling import ROPE_FACTORS, factors_of
from minimtp.formats.gguf.vocabulary import vocabulary_of
from minimtp.formats.gguf.writer import (
    Content,
    add_activations,
    add_config,
    caveats_of_rounding,
    stored_tensors,
)
from minimtp.formats.layout import Part
from minimtp.model.heads import Eagle3Heads, MultiTokenModel
from minimtp.model.loaded import LoadedModel
from minimtp.model.tokenizer import Tokenizer
from minimtp.training.build import model_config

if TYPE_CHECKING:
    from gguf import GGUFWriter

TABLE, OUTPUT = f"{GGUF_NAMES.embedding}.weight", f"{GGUF_NAMES.model.output}.weight"


def head_content(model: MultiTokenModel, tokenizer: Tokenizer, name: str) -> Content:
    """Return the content of the file of the model's heads, in full precision or packed.

    Raises UserError if a file cannot hold the head or the tokenizer.
    """
    heads, vocabulary = model.heads, model.heads.draft_vocabulary
    members = dict(heads.named_modules())
    rows = 0
    if heads.output is not None or vocabulary is not None:
        members["output"] = model.draft_output_matrix
        rows = members["output"].shape[0]
    tensors = stored_tensors(head_layout(heads, GGUF_NAMES, rows), members)
    if vocabulary is not None:
        tensors[IDS] = "i64", vocabulary.ids.data.astype(np.int64)
    factors = factors_of(heads.config)
    if factors is not None:
        tensors[ROPE_FACTORS] = "f32", factors

    def add_metadata(writer: "GGUFWriter") -> None:
        add_activations(writer, heads)
        add_config(writer, heads.config)
        writer.add_uint32("minimtp.draft_depth", heads.depth)
        writer.add_array(f"{HEAD}.target_layers", list(heads.layers))
        writer.add_uint32(f"{HEAD}.target_hidden_size", model.config.hidden_size)
        writer.add_bool(f"{HEAD}.norm_before_residual", heads.block.norm_before_residual)
        writer.add_bool(f"{HEAD}.norm_before_fc", heads.fc_norm is not None)

    return Content(HEAD, name, tensors, vocabulary_of(tokenizer), add_metadata)


def caveats(model: MultiTokenModel) -> list[str]:
    """Return a sentence for each way in which llama.cpp does not run the head like minimtp."""
    sentences = caveats_of_rounding(model.heads)
    if model.config.qkv_bias:
        sentences.append("llama.cpp cannot draft for models of the family qwen2 with such a head")
    elif max(model.heads.layers) == model.config.num_layers:
        sentences.append(
            "the head reads the last layer's output, which llama.cpp does not give to a head: "
            f"{other_layers(model.config.num_layers)} for llama.cpp"
        )
    return sentences


def is_head(path: str | Path) -> bool:
    """Return whether a GGUF file holds a draft head. Raises UserError for a damaged file."""
    key = "general.architecture"
    found = open_gguf(path, lambda name: name == key).metadata.get(key)
    return found is not None and found.value == HEAD


def load_head(path: str | Path, target: LoadedModel) -> Eagle3Heads:
    """Load the head of a file, onto the device of the target.

    Raises UserError if the file holds no head that can be loaded, or one for another model.
    """
    file = open_gguf(path, is_declared)
    metadata = read_head_metadata(file)
    settings = _settings(file, metadata)
    heads = empty_heads(settings, target, str(path))
    rows = 0
    if settings.own_output:
        rows = require_output(settings, file.tensors[OUTPUT].shape, OUTPUT, str(path))
    parameters = list(head_layout(heads, GGUF_NAMES, rows))
    weights = read_weights(file, heads, parameters)
    require_nothing_else(file, parameters, {ROPE_FACTORS, IDS, TABLE})
    if TABLE in file.tensors:
        shape = settings.config.vocabulary_size, settings.config.hidden_size
        require_same_table(read_numbers(file, Part(TABLE, shape)), target, str(path))
    if rows:
        output = weights["output.weight"]
        in_order = sorted_rows(settings.ids, output.array)
        weights["output.weight"] = output._replace(array=in_order)
    xp = array_module(target.model.trunk.final_norm.weight.data)
    return with_weights(heads, weights, metadata, xp.asarray)


def _settings(file: GgufFile, metadata: Metadata) -> HeadSettings:
    sizes = metadata.sizes
    if sizes["block_count"] != 1:
        raise UserError(
            f"{file.path}: a draft head of {sizes['block_count']} layers is not supported "
            "(supported: 1)"
        )
    with naming(file.path):
        recipe = recipe_of(file, metadata)
    if recipe.qkv_bias or recipe.qk_norm:
        raise UserError(
            f"{file.path}: a draft head with biases or norms in its attention is not supported: "
            "give one without"
        )
    return HeadSettings(
        config=model_config(recipe),
        layers=tuple(int(layer) for layer in sizes["target_layers"]),
        target_hidden_size=sizes["target_hidden_size"],
        norm_before_residual=sizes["norm_before_residual"],
        norm_before_fc=sizes["norm_before_fc"],
        ids=_ids(file),
        own_output=OUTPUT in file.tensors,
        numbers=sum(math.prod(tensor.shape) for tensor in file.tensors.values()),
        depth=metadata.general["minimtp.draft_depth"] or DEPTH,
    )


def _ids(file: GgufFile) -> Array | None:
    tensor = file.tensors.get(IDS)
    if tensor is None:
        return None
    if tensor.type != "i64" or len(tensor.shape) != 1:
        raise UserError(
            f"{file.path}: {IDS} has the type {tensor.type} and the shape {shown(tensor.shape)}, "
            "but must be a list of i64: give another file"
        )
    return file.array(IDS).reshape(-1).view("<i8")
