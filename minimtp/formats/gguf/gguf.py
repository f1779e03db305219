"""A run's trunk as a GGUF file, the format of llama.cpp, and back.

A trunk is LLaMA-shaped, so each of its matrices has a place in the architecture "llama", and needs no other change than the
fused ones being cut apart again between rows:

    embedding             token_embd           final_norm             output_norm
    output                output               (left out where tied: llama.cpp then uses token_embd)
    attention_norm        attn_norm            feed_forward_norm      ffn_norm
    attention.qkv         attn_q, attn_k, attn_v
    attention.output      attn_output          feed_forward.down      ffn_down
    feed_forward.gate_up  ffn_gate, ffn_up

Rotary positions turn adjacent channels in both (ggml's rope type "norm"), so no row changes its place.

**Nothing is rounded here.** Full precision is written as float32. A packed matrix is written as the very bytes of the run's
checkpoint, and a run that trained through rounding is packed first, exactly as for decoding: what training computed with is
what the file holds. A grid that is no type of ggml has no such bytes, and is refused.

What a file cannot say is told as a caveat: it has no place for prediction heads, and how inputs, keys and values are rounded
is not the model's but the program's choice. llama.cpp multiplies blocks by inputs rounded to int8 in groups of 32, as the
default `--activations int8` does, except that it stores their scales as float16.

Loading takes any such file of architecture llama in float32, float16 or blocks, with a byte-level vocabulary, whoever wrote
it; the run that comes back rounds its inputs as llama.cpp does.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from minimtp.backend import choose_device, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.module import Module, map_parameters
from minimtp.errors import UserError
from minimtp.files import atomic_write, kind_at, make_folder
from minimtp.formats.gguf.vocabulary import MODEL, PATTERN, Vocabulary, tokenizer_of, vocabulary_of
from minimtp.model.transformer import LanguageModel, ModelConfig
from minimtp.quant.grids.registry import BLOCK_GRIDS, F16
from minimtp.quant.packed import PackedMatrix
from minimtp.quant.qat.modules import FakeQuantizedMatrix, QuantizationSpec, convert, restore
from minimtp.training import checkpoint
from minimtp.training.build import build_model, fill
from minimtp.training.checkpoint import LoadedRun
from minimtp.training.data.tokenizer import Tokenizer
from minimtp.training.recipe import Recipe

BLOCK = {  # what stands in which tensors, without blk.N. and .weight
    "attention_norm": ("attn_norm",), "attention.qkv": ("attn_q", "attn_k", "attn_v"), "attention.output": ("attn_output",),
    "feed_forward_norm": ("ffn_norm",), "feed_forward.gate_up": ("ffn_gate", "ffn_up"), "feed_forward.down": ("ffn_down",),
}  # fmt: skip
FILE_TYPES = {  # general.file_type of what most matrices are
    "f32": "ALL_F32", "f16": "MOSTLY_F16", "q4_0": "MOSTLY_Q4_0", "q4_1": "MOSTLY_Q4_1", "q8_0": "MOSTLY_Q8_0",
    "q4_k": "MOSTLY_Q4_K_S", "q6_k": "MOSTLY_Q6_K",
}  # fmt: skip


class Exported(NamedTuple):
    """What was written: the file, its size, how many tensors it has of each type, and what it does not say of the run."""

    path: Path
    size: int
    types: Counter
    caveats: list[str]


class File(NamedTuple):
    """What a GGUF file holds.

    tensors: float (N, K) or (K,), or blocks as uint8 (N, bytes of a row). types: "f32", "q4_0", ...
    """

    metadata: dict[str, object]
    tensors: dict[str, np.ndarray]
    types: dict[str, str]


def export(run: LoadedRun | str | Path, path: str | Path) -> Exported:
    """Write a run's trunk and tokenizer to a GGUF file, replacing one that is there when the new one is safely on the disk.

    Raises UserError for a model that such a file cannot hold, a missing extra, and a file that cannot be written.
    """
    run = run if isinstance(run, LoadedRun) else checkpoint.load(run)
    return write(path, run.model, run.tokenizer, run.folder.name.removesuffix(".gguf"))


def write(path: str | Path, model: LanguageModel, tokenizer: Tokenizer, name: str) -> Exported:
    """`export` of a model that is no run. name: what the file calls it."""
    gguf, path = _library(), Path(path)
    if any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules()):
        model = convert(model)
    tensors, vocabulary = _tensors(model), vocabulary_of(tokenizer)
    if kind_at(path) not in ("nothing", "file"):
        raise UserError(f"{path} is no file: give the name of one to write")
    make_folder(path.parent)
    with atomic_write(path) as partial:
        writer = gguf.GGUFWriter(partial, "llama")
        try:
            most = Counter(kind for kind, array in tensors.values() if array.ndim == 2).most_common(
                1
            )[0][0]
            writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[most]])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            writer.add_name(name)
            _add_shape(writer, model.config)
            _add_vocabulary(writer, vocabulary)
            for tensor, (kind, array) in tensors.items():
                writer.add_tensor(tensor, array, raw_dtype=gguf.GGMLQuantizationType[kind.upper()])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return Exported(
        path, path.stat().st_size, Counter(kind for kind, _ in tensors.values()), caveats(model)
    )


def read(path: str | Path) -> File:
    """All that a GGUF file holds, its arrays copied. Raises UserError for a file that is missing or no GGUF."""
    gguf = _library()
    if kind_at(path) != "file":
        raise UserError(f"there is no file {path}: give a GGUF file")
    try:
        reader = gguf.GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    except Exception as error:  # the library raises whatever a damaged length or offset leads to
        raise UserError(
            f"{path} is damaged, or no GGUF file ({' '.join(str(error).split())}): give another one"
        ) from None
    return File(
        metadata,
        tensors,
        {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors},
    )


def load(path: str | Path, device: str = "cpu") -> LoadedRun:
    """The model of a GGUF file, as `minimtp.load` gives that of a run folder: it generates, evaluates and exports.

    Raises UserError for a file that is no such model, and for a device that cannot be used.
    """
    chosen, file = choose_device(device), read(path)
    try:
        recipe, tokenizer = _recipe(file), tokenizer_of(_vocabulary(file))
    except KeyError as error:
        raise UserError(
            f"{path} does not say {error}: it is not a whole model, give another one"
        ) from None
    if tokenizer.vocabulary_size != recipe.vocabulary_size:
        raise UserError(
            f"{path} has {recipe.vocabulary_size} rows and {tokenizer.vocabulary_size} tokens: give another file"
        )
    model, spec = build_model(recipe, None), None
    arrays, grids = _arrays(path, file, model.config)
    weights, embedding = grids["blocks.0.attention.qkv"], grids["embedding"]
    if weights is None:
        fill(model, arrays, path)
        map_parameters(model, lambda array: to_device(array, chosen))
    else:
        spec = QuantizationSpec(
            weights=weights, heads=weights, embedding=embedding, output=grids.get("output", "same")
        )
        model = restore(
            model, spec, {name: to_device(array, chosen) for name, array in arrays.items()}
        )
    return LoadedRun(Path(path), model, recipe, tokenizer, 0, 0, {}, spec, False, {})


def caveats(model: LanguageModel) -> list[str]:
    """What the run has that its file cannot say, a sentence each."""
    packed = [
        module for _, module in model.trunk.named_modules() if isinstance(module, PackedMatrix)
    ]
    in_blocks = [matrix for matrix in packed if matrix.grid is not F16]
    rounded = {matrix.activations for matrix in in_blocks}
    said = []
    if model.depth:
        said.append(
            f"the {model.depth} prediction heads are not in the file: llama.cpp has none like them"
        )
    if len(in_blocks) < len(packed):
        said.append(
            "this run does not round what it multiplies by float16; llama.cpp rounds it to float16, too"
        )
    if "none" in rounded:
        said.append(
            "this run does not round the inputs of its products; llama.cpp rounds them to int8 in groups of 32"
        )
    if "int8-token" in rounded:
        said.append(
            "this run rounds inputs with one scale a token; llama.cpp rounds them in groups of 32"
        )
    if "int8" in rounded and {matrix.grid.group_size for matrix in in_blocks} - {32}:
        said.append(
            "this run rounds inputs in groups of 32; llama.cpp rounds those of q4_k and q6_k in groups of 256"
        )
    if any(hasattr(module, "stored") for _, module in model.trunk.named_modules()):
        said.append(
            "this run reads keys and values from a cache of few bits; llama.cpp's default cache is float16"
        )
    return said


def layout(config: ModelConfig) -> Iterator[tuple[str, dict[str, int]]]:
    """(a module of the trunk, {tensor: its rows}), the rows of the one being those of the others, in that order."""
    yield "embedding", {"token_embd.weight": config.vocabulary_size}
    heads, groups = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    rows = {
        "attn_q": heads,
        "attn_k": groups,
        "attn_v": groups,
        "ffn_gate": config.intermediate_size,
        "ffn_up": config.intermediate_size,
    }
    for i in range(config.num_layers):
        for module, parts in BLOCK.items():
            yield (
                f"blocks.{i}.{module}",
                {f"blk.{i}.{part}.weight": rows.get(part, config.hidden_size) for part in parts},
            )
    yield "final_norm", {"output_norm.weight": config.hidden_size}
    if not config.tied_embeddings:
        yield "output", {"output.weight": config.vocabulary_size}


def _tensors(model: LanguageModel) -> dict[str, tuple[str, np.ndarray]]:
    """{tensor: (its type, its rows)}. Raises UserError for a grid that is no type of ggml."""
    modules, found = dict(model.trunk.named_modules()), {}
    for name, parts in layout(model.config):
        kind, array = _stored(name, modules[name])
        end = 0
        for tensor, rows in parts.items():
            found[tensor] = kind, np.ascontiguousarray(array[end : end + rows])
            end += rows
    return found


def _stored(name: str, module: Module) -> tuple[str, np.ndarray]:
    if not isinstance(module, PackedMatrix):
        return "f32", to_numpy(module.weight.data)
    if module.grid is F16:
        return "f16", to_numpy(module.packed).view("<f2")
    if module.grid.name not in BLOCK_GRIDS:
        raise UserError(
            f"{name} is stored on the grid {module.grid.name}, which is no type of ggml, so that no GGUF file can hold it: "
            f"those hold {', '.join(BLOCK_GRIDS)}, {F16.name} and full precision"
        )
    return module.grid.name, to_numpy(module.packed)


def _add_shape(writer: object, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocabulary_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _add_vocabulary(writer: object, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(MODEL)
    writer.add_tokenizer_pre(PATTERN)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.end)  # as in GPT-2; llama.cpp would assume token 11
    writer.add_eos_token_id(vocabulary.end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _recipe(file: File) -> Recipe:
    """Raises KeyError for a missing entry, UserError for one that our models do not have."""
    known = file.metadata
    if known["general.architecture"] != "llama":
        raise UserError(
            f"a file of architecture {known['general.architecture']} cannot be loaded: llama can"
        )
    width, heads = known["llama.embedding_length"], known["llama.attention.head_count"]
    head_dim = width // heads
    for key in (
        "llama.rope.dimension_count",
        "llama.attention.key_length",
        "llama.attention.value_length",
    ):
        if known.get(key, head_dim) != head_dim:
            raise UserError(
                f"{key} is {known[key]}, but heads of width {head_dim} are wanted: this file cannot be loaded"
            )
    if known.get("llama.rope.scaling.type", "none") != "none":
        raise UserError(
            f"rotary positions scaled by {known['llama.rope.scaling.type']} cannot be loaded: none can"
        )
    context_length = known["llama.context_length"]
    return Recipe(
        vocabulary_size=len(known["tokenizer.ggml.tokens"]), context_length=context_length, batch_size=1, tokens=context_length,  # any training will do
        num_layers=known["llama.block_count"], hidden_size=width, num_heads=heads,
        num_kv_heads=known.get("llama.attention.head_count_kv", heads), intermediate_size=known["llama.feed_forward_length"],
        tied_embeddings="output.weight" not in file.tensors,
        rope_theta=_shortest(known.get("llama.rope.freq_base", 1e4)),
        norm_eps=_shortest(known["llama.attention.layer_norm_rms_epsilon"]),
    )  # fmt: skip


def _shortest(number: float) -> float:
    """The shortest decimal that is this float32: 1e-05 for what is stored of it."""
    return float(str(np.float32(number)))


def _vocabulary(file: File) -> Vocabulary:
    known = file.metadata
    kind = known["tokenizer.ggml.model"], known.get("tokenizer.ggml.pre")
    if kind != (MODEL, PATTERN):
        raise UserError(
            f"a vocabulary of kind {' '.join(map(str, kind))} cannot be loaded: {MODEL} {PATTERN} can"
        )
    return Vocabulary(
        known["tokenizer.ggml.tokens"], known["tokenizer.ggml.token_type"], known["tokenizer.ggml.merges"],
        known["tokenizer.ggml.eos_token_id"],
    )  # fmt: skip


def _arrays(
    path: str | Path, file: File, config: ModelConfig
) -> tuple[dict[str, np.ndarray], dict[str, str | None]]:
    """What `restore` or `fill` take, and the grid of each matrix by the name of its module, None for floats."""
    arrays, grids, left = {}, {}, dict(file.tensors)
    for module, parts in layout(config):
        missing = [tensor for tensor in parts if tensor not in left]
        if missing:
            raise UserError(f"{path} lacks {missing[0]}: it is not a whole model, give another one")
        joined = [left.pop(tensor) for tensor in parts]
        kinds = {file.types[tensor] for tensor in parts}
        kind = kinds.pop()
        if (
            kinds
            or kind not in ("f32", "f16", *BLOCK_GRIDS)
            or len({array.shape[1:] for array in joined}) > 1
        ):
            raise UserError(
                f"{path} holds {', '.join(parts)} as {', '.join([kind, *kinds])}, which cannot be loaded"
            )
        if joined[0].ndim == 2:
            grids[module] = kind if kind in BLOCK_GRIDS else None
        floats = grids.get(module) is None
        array = np.concatenate(joined)
        arrays[f"{module}.{'weight' if floats else 'packed'}"] = (
            array.astype(np.float32) if floats else array
        )
    if left:
        raise UserError(
            f"{path} has {', '.join(sorted(left)[:3])}, which this model does not: it cannot be loaded"
        )
    tables = {grids["embedding"], grids.get("output", grids["embedding"])}
    trunk = {grid for module, grid in grids.items() if module.startswith("blocks")}
    if len(trunk) > 1 or (None in trunk | tables and len(trunk | tables) > 1):
        raise UserError(f"{path} holds matrices as {', '.join(sorted({str(kind) for kind in file.types.values()}))}: "
                        "one type for those of the blocks can be loaded")  # fmt: skip
    return arrays, grids


def _library() -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise UserError(
            "GGUF files need the extra interop: pip install 'minimtp[interop]'"
        ) from None
    return gguf
