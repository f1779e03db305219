"""Loading a GGUF file.

Files of the architectures in metadata.py can be loaded, from any program, if their matrices are
floats or blocks of ggml that BLOCK_GRIDS names, and their vocabulary is byte-level or of pieces.
Each matrix may have a type of its own, as in the files that llama.cpp calls Q4_K_M. Blocks stay as
they are in the file. Three cases become float32, which holds the same numbers: a fused matrix whose
parts have different types (the value matrices of some files are finer), a matrix in Q5_K, and
every matrix if `dequantize` asks for it, for a model to train from.

The inputs of blocks are rounded to int8 where our kernels do that (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0),
as llama.cpp does. The K-quants have no such kernels, so their inputs are not rounded, and decoding
multiplies by float32. Files of `minimtp export` say how the exported model rounded, and compute the
same.

The tensors are mapped into memory, so a file loads about as fast as its weights can be read once. A
tensor that becomes float32 is decoded a slice at a time, and its pages are given back at once. So
loading needs hardly more memory than the model.
"""

import re
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import NamedTuple

from minimtp.backend import Array, choose_device, to_device
from minimtp.backend import numpy as np
from minimtp.engine.module import Module, map_parameters, replace_modules
from minimtp.errors import UserError, naming, shown
from minimtp.formats.gguf import q5_k
from minimtp.formats.gguf.container import ALL, GgufFile, open_gguf
from minimtp.formats.gguf.layout import HALVES, NAMES
from minimtp.formats.gguf.metadata import Metadata, is_declared, read_metadata
from minimtp.formats.gguf.rope_scaling import ROPE_FACTORS, scaling_of
from minimtp.formats.gguf.vocabulary import tokenizer_of, vocabulary_in
from minimtp.formats.layout import Part, layout, to_neighbours
from minimtp.machine import require_memory
from minimtp.model.layers import Embedding, Linear
from minimtp.quant import packing
from minimtp.quant.activations import ACTIVATIONS
from minimtp.quant.grids import BLOCK_GRIDS, F16
from minimtp.quant.grids.mixture import MATRICES, mixture_name
from minimtp.quant.packed_matrix import PackedEmbedding, PackedLinear
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LoadedRun

FLOATS = ("f32", "f16", "bf16")
NUMBERS_AT_ONCE = 1 << 18  # decoded to float32 together, so that intermediate arrays stay small


class Weights(NamedTuple):
    """A parameter of the model: float32, or blocks (N, bytes per row) on a grid of BLOCK_GRIDS."""

    grid: str | None
    array: Array


def load_gguf(path: str | Path, device: str = "cpu", dequantize: bool = False) -> LoadedRun:
    """Load the model of a GGUF file onto the device "cpu", "cuda" or "auto".

    dequantize: turn all blocks into float32.

    Raises UserError if the file holds no model that can be loaded, or the device cannot be used.
    """
    chosen = choose_device(device)
    file = open_gguf(path, is_declared)
    metadata = read_metadata(file)
    tokenizer = tokenizer_of(vocabulary_in(metadata.general, file.path), str(path))
    with naming(path):
        recipe = recipe_of(file, metadata)
    floats = dequantize or not any(t.type in BLOCK_GRIDS for t in file.tensors.values())
    size = 4 * recipe.trunk_parameters() if floats else len(file.content)
    require_memory(size, f"{file.path}{' as float32' if floats else ''}")
    model = build_model(recipe, None)
    halves = metadata.architecture in HALVES
    parameters = list(layout(model.config, NAMES))
    head_dim = model.config.head_dim if halves else 0
    weights = read_weights(file, model, parameters, head_dim, dequantize)
    require_nothing_else(file, parameters, {ROPE_FACTORS})
    model = with_weights(model, weights, metadata, lambda array: to_device(array, chosen))
    packed = _packed(weights)
    blocks = sorted({tensor.type for tensor in file.tensors.values()} - {*FLOATS})
    state = {"dequantized_from": blocks} if dequantize and blocks else {}
    return LoadedRun(file.path, model, tokenizer, recipe, packed, state=state)


def recipe_of(file: GgufFile, metadata: Metadata) -> Recipe:
    """Return the recipe that describes the model of the file."""
    sizes = metadata.sizes
    hidden_size, num_heads = sizes["embedding_length"], sizes["attention.head_count"]
    head_dim = sizes["attention.key_length"]
    context_length = sizes["context_length"]
    return Recipe(
        vocabulary_size=len(metadata.general["tokenizer.ggml.tokens"]),
        context_length=context_length,
        num_layers=sizes["block_count"],
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=sizes["attention.head_count_kv"] or num_heads,
        intermediate_size=sizes["feed_forward_length"],
        head_dim=None if head_dim in (None, hidden_size / num_heads) else head_dim,
        tied_embeddings="output.weight" not in file.tensors,
        rope_theta=_shortest(sizes["rope.freq_base"]),
        rope_scaling=scaling_of(file, metadata),
        norm_eps=_shortest(sizes["attention.layer_norm_rms_epsilon"]),
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        batch_size=1,  # the file says nothing about training: one window is one step
        tokens=context_length,
    )


def _shortest(number: float) -> float:
    """Return the shortest decimal number that is this float32: 1e-05 for its stored value."""
    return float(str(np.float32(number)))


def read_weights(
    file: GgufFile,
    model: Module,
    parameters: Iterable[tuple[str, list[Part]]],
    head_dim: int = 0,
    dequantize: bool = False,
) -> dict[str, Weights]:
    """Return these parameters of the model, by name. Floats are in the arrays of the model.

    head_dim: above 0, the rows of queries and keys are in the order of Hugging Face.
    """
    weights = {}
    arrays = {name: parameter.data for name, parameter in model.named_parameters()}
    for name, parts in parameters:
        for part in parts:
            _check_part(file, part)
        kinds = {file.tensors[part.name].type for part in parts}
        blocks = len(kinds) == 1 and kinds <= BLOCK_GRIDS.keys() and not dequantize
        if blocks:
            weights[name] = Weights(kinds.pop(), _joined_blocks(file, parts, head_dim))
        else:
            _join_floats(file, parts, head_dim, arrays[name])
            weights[name] = Weights(None, arrays[name])
    return weights


def require_nothing_else(
    file: GgufFile, parameters: Iterable[tuple[str, list[Part]]], known: Set[str]
) -> None:
    """Raise UserError if the file has other tensors than those of the parameters and the known."""
    left = file.tensors.keys() - known - {part.name for _, parts in parameters for part in parts}
    if left:
        raise UserError(
            f"{file.path} has {shown(', '.join(sorted(left)[:3]), 100)}, which this architecture "
            "does not have: give another file"
        )


def _check_part(file: GgufFile, part: Part) -> None:
    """Raise UserError unless the file has the tensor in the right shape and a known type."""
    tensor = file.tensors.get(part.name)
    if tensor is None:
        raise UserError(f"{file.path} lacks {part.name}, so it is not complete: give another file")
    if tensor.shape != part.shape:
        raise UserError(
            f"{file.path}: {part.name} has the shape {shown(tensor.shape)}, but the metadata asks "
            f"for {part.shape}: give another file"
        )
    supported = (*FLOATS, *BLOCK_GRIDS, q5_k.NAME) if len(part.shape) == 2 else FLOATS
    if tensor.type not in supported:
        raise UserError(
            f"{file.path}: {part.name} is stored as {tensor.type}, which is not supported "
            f"(supported: {', '.join(supported)}): give another file"
        )


def _joined_blocks(file: GgufFile, parts: list[Part], head_dim: int) -> Array:
    """Return the blocks of the tensors, one after another, uint8 (N, bytes per row). A single
    tensor is not copied.

    head_dim: above 0, bring the channels of rotated heads into our order.
    Raises UserError for numbers that are not finite.
    """
    arrays = []
    for part in parts:
        array = file.array(part.name)
        grid = BLOCK_GRIDS[file.tensors[part.name].type]
        _require_finite(file, part, packing.has_finite_scales(grid, array))
        arrays.append(to_neighbours(array, head_dim) if head_dim and part.rotated else array)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _join_floats(file: GgufFile, parts: list[Part], head_dim: int, joined: Array) -> None:
    """Write the same as numbers to `joined`, float32 (N, K) or (N,)."""
    end = 0
    for part in parts:
        start, end = end, end + part.shape[0]
        target, at_once = joined[start:end], max(1, NUMBERS_AT_ONCE * len(joined) // joined.size)
        for first in range(0, len(target), at_once):
            some = slice(first, first + at_once)
            target[some] = read_numbers(file, part, some)
        file.forget(part.name)
        if head_dim and part.rotated:
            target[:] = to_neighbours(target, head_dim)


def read_numbers(file: GgufFile, part: Part, rows: slice = ALL) -> Array:
    """Return some rows of a tensor as numbers. Raises UserError if one is not finite."""
    kind, array = file.tensors[part.name].type, file.array(part.name, rows)
    if kind == q5_k.NAME:
        _require_finite(file, part, q5_k.is_finite(array))
        return q5_k.dequantize(array)
    if kind in BLOCK_GRIDS:
        grid = BLOCK_GRIDS[kind]
        _require_finite(file, part, packing.has_finite_scales(grid, array))
        return packing.dequantize(grid, array)
    _require_finite(file, part, bool(np.isfinite(array.min()) and np.isfinite(array.max())))
    return array


def _require_finite(file: GgufFile, part: Part, finite: bool) -> None:
    if not finite:
        raise UserError(
            f"{file.path}: {part.name} has weights that are NaN or infinite: give another file"
        )


def _rounding_of_inputs(weights: dict[str, Weights], stated: str | None) -> dict[str, str]:
    """Return, by parameter, how the inputs of its matrix are rounded.

    stated: what the file says. The kernels need the same format for a matrix in every block, so
    where the blocks differ, nothing is rounded, and decoding multiplies by float32.
    """
    by_role: dict[str, set[str | None]] = {}
    for name, found in weights.items():
        by_role.setdefault(_role(name), set()).add(found.grid)
    inputs = {}
    for name, found in weights.items():
        alike = found.grid is not None and len(by_role[_role(name)]) == 1
        usual = "int8" if alike and BLOCK_GRIDS[found.grid].has_kernels else "none"
        inputs[name] = stated if alike and stated else usual
    return inputs


def _role(name: str) -> str:
    """Return the name of a parameter without the number of its block."""
    return re.sub(r"^blocks\.\d+", "blocks", name)


def with_weights(
    model: Module, weights: dict[str, Weights], metadata: Metadata, place: Callable
) -> Module:
    """Return the model with these weights: packed modules for blocks, arrays for floats.

    place: moves an array to the device.
    """
    stated = metadata.general["minimtp.activations"]
    inputs = _rounding_of_inputs(weights, stated if stated in ACTIVATIONS else None)

    def swap(name: str, module: Module) -> Module | None:
        found = weights.get(f"{name}.weight")
        if found is None or found.grid is None:
            return None
        grid, array = BLOCK_GRIDS[found.grid], place(found.array)
        rounding = inputs[f"{name}.weight"]
        if isinstance(module, Embedding):
            return PackedEmbedding(grid, array, rounding, module.weight.dtype)
        assert isinstance(module, Linear), name
        return PackedLinear(grid, array, rounding)

    model = replace_modules(model, swap)
    for name, parameter in model.named_parameters():
        parameter.data = weights[name].array
    map_parameters(model, place)
    return model


def _packed(weights: dict[str, Weights]) -> QuantizationSpec | None:
    """Return how the model is rounded, or None if no matrix is. The blocks may have different types
    for the same matrix: those of the first block are named.
    """
    first = {
        matrix: found.grid
        for name, found in weights.items()
        for matrix in MATRICES
        if name.startswith("blocks.0.") and name.endswith(f".{matrix}.weight")
    }
    grid = next(filter(None, first.values()), None)
    tables = [weights["embedding.weight"], weights.get("output.weight")]
    if grid is None and not any(table and table.grid for table in tables):
        return None
    embedding, output = (table and (table.grid or F16.name) for table in tables)
    mixture = mixture_name({matrix: grid or F16.name for matrix, grid in first.items()})
    return QuantizationSpec(mixture, embedding, heads=grid or F16.name, output=output or "same")
