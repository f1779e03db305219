"""Loading a GGUF file.

Any file of the architecture llama can be loaded, from any program, if its matrices are float32,
float16 or blocks of ggml and its vocabulary is byte-level. The loaded model rounds its inputs as
llama.cpp does. It generates, can be evaluated, and can be exported again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from minimtp.backend import Array, choose_device, to_device
from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters
from minimtp.errors import UserError
from minimtp.files import kind_at
from minimtp.formats.gguf.layout import gguf_library, layout
from minimtp.formats.gguf.vocabulary import MODEL, PATTERN, Vocabulary, tokenizer_of
from minimtp.model.config import ModelConfig
from minimtp.quant.grids import BLOCK_GRIDS
from minimtp.quant.qat.convert import restore
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model, fill
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LoadedRun


class GgufFile(NamedTuple):
    """The content of a GGUF file.

    tensors: floats (N, K) or (K,), or blocks as uint8 (N, bytes per row).
    types: "f32", "q4_0", ... by the name of the tensor.
    """

    metadata: dict[str, object]
    tensors: dict[str, Array]
    types: dict[str, str]


def read_gguf(path: str | Path) -> GgufFile:
    """Read the whole file and copy its arrays. Raises UserError if it is missing or not GGUF."""
    gguf = gguf_library()
    if kind_at(path) != "file":
        raise UserError(f"there is no file {path}: give a GGUF file")
    try:
        reader = gguf.GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    except Exception as error:  # a damaged length or offset can raise any error in the library
        raise UserError(
            f"{path} is damaged, or is not a GGUF file ({' '.join(str(error).split())}): "
            "give another file"
        ) from None
    types = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors}
    return GgufFile(metadata, tensors, types)


def load_gguf(path: str | Path, device: str = "cpu") -> LoadedRun:
    """Load the model of a GGUF file onto the device "cpu", "cuda" or "auto".

    Raises UserError if the file holds no model that can be loaded, or the device cannot be used.
    """
    chosen = choose_device(device)
    file = read_gguf(path)
    try:
        recipe = _recipe(path, file)
        tokenizer = tokenizer_of(_vocabulary(path, file.metadata))
    except KeyError as error:
        raise UserError(
            f"{path} does not contain {error}, so it is not a complete model: give another file"
        ) from None
    if tokenizer.vocabulary_size != recipe.vocabulary_size:
        raise UserError(
            f"{path} has {recipe.vocabulary_size} rows for {tokenizer.vocabulary_size} tokens: "
            "give another file"
        )
    model = build_model(recipe, None)
    arrays, grids = _arrays(path, file, model.config)
    weights = grids["blocks.0.attention.qkv"]
    packed = None
    if weights is None:
        fill(model, arrays, path)
        map_parameters(model, lambda array: to_device(array, chosen))
    else:
        packed = QuantizationSpec(
            weights=weights,
            heads=weights,
            embedding=grids["embedding"],
            output=grids.get("output", "same"),
        )
        arrays = {name: to_device(array, chosen) for name, array in arrays.items()}
        model = restore(model, packed, arrays)
    return LoadedRun(Path(path), model, tokenizer, recipe, packed)


def _recipe(path: str | Path, file: GgufFile) -> Recipe:
    """Return the recipe that describes the model of the file.

    Raises KeyError for a missing entry, and UserError for one that our models do not support.
    """
    metadata = file.metadata
    architecture = metadata["general.architecture"]
    if architecture != "llama":
        raise UserError(f"{path}: unsupported architecture {architecture} (supported: llama)")
    hidden_size = metadata["llama.embedding_length"]
    num_heads = metadata["llama.attention.head_count"]
    context_length = metadata["llama.context_length"]
    head_dim = hidden_size // num_heads
    for key in (
        "llama.rope.dimension_count",
        "llama.attention.key_length",
        "llama.attention.value_length",
    ):
        if metadata.get(key, head_dim) != head_dim:
            raise UserError(
                f"{path}: {key} {metadata[key]} is not supported (supported: {head_dim}, "
                "the hidden size divided by the number of heads)"
            )
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise UserError(f"{path}: RoPE scaling {scaling} is not supported")
    return Recipe(
        vocabulary_size=len(metadata["tokenizer.ggml.tokens"]),
        context_length=context_length,
        num_layers=metadata["llama.block_count"],
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=metadata.get("llama.attention.head_count_kv", num_heads),
        intermediate_size=metadata["llama.feed_forward_length"],
        tied_embeddings="output.weight" not in file.tensors,
        rope_theta=_shortest(metadata.get("llama.rope.freq_base", 1e4)),
        norm_eps=_shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        batch_size=1,  # the file says nothing about training: one window is one step
        tokens=context_length,
    )


def _shortest(number: float) -> float:
    """Return the shortest decimal number that is this float32: 1e-05 for its stored value."""
    return float(str(np.float32(number)))


def _vocabulary(path: str | Path, metadata: Mapping[str, object]) -> Vocabulary:
    """Return the vocabulary of the file. Raises KeyError and UserError as `_recipe` does."""
    model, pattern = metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre")
    if (model, pattern) != (MODEL, PATTERN):
        raise UserError(
            f"{path}: tokenizer {model} with pre-tokenizer {pattern} is not supported "
            f"(supported: {MODEL} with {PATTERN})"
        )
    return Vocabulary(
        metadata["tokenizer.ggml.tokens"],
        metadata["tokenizer.ggml.token_type"],
        metadata["tokenizer.ggml.merges"],
        metadata["tokenizer.ggml.eos_token_id"],
    )


def _arrays(
    path: str | Path, file: GgufFile, config: ModelConfig
) -> tuple[dict[str, Array], dict[str, str | None]]:
    """Return the arrays of the model, and the grid of each matrix.

    The arrays are named as `restore` and `fill` expect. The grids are named by module; None means
    floats.
    """
    arrays, grids, left = {}, {}, dict(file.tensors)
    for module, names in layout(config):
        missing = [name for name in names if name not in left]
        if missing:
            raise UserError(
                f"{path} lacks {missing[0]}, so it is not a complete model: give another file"
            )
        parts = [left.pop(name) for name in names]
        kind = _common_type(path, file, names, parts)
        if parts[0].ndim == 2:
            grids[module] = kind if kind in BLOCK_GRIDS else None
        array = np.concatenate(parts)
        if grids.get(module) is None:
            arrays[f"{module}.weight"] = array.astype(np.float32)
        else:
            arrays[f"{module}.packed"] = array
    if left:
        raise UserError(
            f"{path} has {', '.join(sorted(left)[:3])}, which this architecture does not have: "
            "it cannot be loaded"
        )
    _check_grids(path, file, grids)
    return arrays, grids


def _common_type(
    path: str | Path, file: GgufFile, names: Mapping[str, int], parts: list[Array]
) -> str:
    """Return the type of a module's tensors. Raises UserError if they do not fit together."""
    kinds = list(dict.fromkeys(file.types[name] for name in names))
    supported = kinds[0] in ("f32", "f16", *BLOCK_GRIDS)
    if len(kinds) > 1 or not supported or len({part.shape[1:] for part in parts}) > 1:
        raise UserError(
            f"{path} holds {', '.join(names)} as {', '.join(kinds)}, which cannot be loaded"
        )
    return kinds[0]


def _check_grids(path: str | Path, file: GgufFile, grids: Mapping[str, str | None]) -> None:
    """Raise UserError unless all blocks have one type, and all or no matrices are packed."""
    tables = {grids["embedding"], grids.get("output", grids["embedding"])}
    trunk = {grid for module, grid in grids.items() if module.startswith("blocks")}
    if len(trunk) > 1 or (None in trunk | tables and len(trunk | tables) > 1):
        kinds = ", ".join(sorted(set(file.types.values())))
        raise UserError(
            f"{path} holds matrices as {kinds}: "
            "only files with one type for the matrices of all blocks can be loaded"
        )
