"""Export: the trunk of a model as a GGUF file, which llama.cpp runs.

**Nothing is rounded here.** Full precision is written as float32. A packed matrix is written with
exactly the bytes of the checkpoint. A model that was trained with rounding is packed first, exactly
as for decoding, so the file holds the numbers that training computed with. A grid that is not a
type of ggml is rejected.

A GGUF file cannot hold everything. It has no place for prediction heads, and the program, not the
file, chooses how inputs, keys and values are rounded. `caveats` lists what is lost. llama.cpp
multiplies blocks by inputs rounded to int8 in groups of 32, as the default `--activations int8`
does, but stores the scales of the inputs as float16.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import minimtp
from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.module import Module
from minimtp.engine.tensor import Parameter
from minimtp.errors import UserError
from minimtp.files import FileKind, atomic_write, check_file
from minimtp.formats.exported import Exported
from minimtp.formats.gguf import pieces
from minimtp.formats.gguf.layout import HALVES, NAMES, gguf_library
from minimtp.formats.gguf.rope_scaling import OWN_KEY, ROPE_FACTORS, factors_of
from minimtp.formats.gguf.vocabulary import MODEL, Vocabulary, vocabulary_of
from minimtp.formats.layout import Part, layout, split, to_halves
from minimtp.model.config import ModelConfig
from minimtp.model.heads import Eagle3Heads
from minimtp.model.loaded import Tokenizer
from minimtp.model.transformer import LanguageModel
from minimtp.quant import packing
from minimtp.quant.grids import BLOCK_GRIDS, F16
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.quant.qat.convert import packed_model
from minimtp.quant.qat.kv_cache import AttentionWithQuantizedCache

if TYPE_CHECKING:
    from gguf import GGUFWriter

MARK = "minimtp.version"  # a key of the files that minimtp writes, and of no others
GGUF_FILE = FileKind("a GGUF file", begins=b"GGUF", contains=MARK.encode())
FILE_TYPES = {  # general.file_type, by the type of most matrices
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "q4_0": "MOSTLY_Q4_0",
    "q4_1": "MOSTLY_Q4_1",
    "q5_0": "MOSTLY_Q5_0",
    "q5_1": "MOSTLY_Q5_1",
    "q8_0": "MOSTLY_Q8_0",
    "q4_k": "MOSTLY_Q4_K_S",
    "q6_k": "MOSTLY_Q6_K",
}


class Content(NamedTuple):
    """What a file holds. tensors: the type and the rows of each. add_metadata: adds the entries
    that describe the model.
    """

    architecture: str
    name: str
    tensors: dict[str, tuple[str, Array]]
    vocabulary: Vocabulary
    add_metadata: Callable[["GGUFWriter"], None]


def write_gguf(path: str | Path, model: LanguageModel, tokenizer: Tokenizer, name: str) -> Exported:
    """Write a model in memory, as `export` does. name: the model's name in the file."""
    model, path = packed_model(model), Path(path)
    check_file(path, GGUF_FILE)
    content = model_content(model, tokenizer, name)
    with written(path, content):
        pass
    return exported(path, content, caveats(model))


def model_content(model: LanguageModel, tokenizer: Tokenizer, name: str) -> Content:
    """Return the content of the file of a model in full precision or packed.

    Raises UserError if a file cannot hold the model or its tokenizer.
    """

    def add_metadata(writer: "GGUFWriter") -> None:
        add_activations(writer, model.trunk)
        add_config(writer, model.config)

    architecture, tensors = architecture_of(model.config), _tensors(model)
    return Content(architecture, name, tensors, vocabulary_of(tokenizer), add_metadata)


@contextmanager
def written(path: Path, content: Content) -> Iterator[None]:
    """Write a file, which is moved to its place when the block ends.

    Raises UserError if the extra `interop` is missing, or if the file cannot be written.
    """
    gguf, tensors = gguf_library(), content.tensors
    matrix_types = Counter(kind for kind, array in tensors.values() if array.ndim == 2)
    with atomic_write(path, GGUF_FILE) as file:
        writer = gguf.GGUFWriter(file.name, content.architecture)
        try:
            writer.add_string(MARK, minimtp.__version__)
            most_common = matrix_types.most_common(1)[0][0]
            writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[most_common]])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            # The name of a folder may have bytes that are not UTF-8.
            writer.add_name(content.name.encode("utf-8", "replace").decode())
            content.add_metadata(writer)
            _add_vocabulary(writer, content.vocabulary)
            for tensor, (kind, array) in tensors.items():
                writer.add_tensor(tensor, array, raw_dtype=gguf.GGMLQuantizationType[kind.upper()])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        yield


def exported(path: Path, content: Content, caveats: list[str]) -> Exported:
    """Describe a file that was written."""
    types = Counter(kind for kind, _ in content.tensors.values())
    return Exported(path, path.stat().st_size, types, caveats)


def caveats(model: LanguageModel) -> list[str]:
    """Return a sentence for each property of the model that the file cannot hold."""
    sentences = caveats_of_rounding(model.trunk)
    if model.depth:
        reason = "llama.cpp has no heads like these"
        if isinstance(model.heads, Eagle3Heads):
            reason = "--draft PATH writes them to a file of their own"
        sentences.insert(0, f"the {model.depth} prediction heads are not in the file: {reason}")
    if any(isinstance(m, AttentionWithQuantizedCache) for _, m in model.trunk.named_modules()):
        sentences.append(
            "this model has a quantized KV cache; llama.cpp's default cache is float16"
        )
    return sentences


def caveats_of_rounding(part: Module) -> list[str]:
    """Return a sentence for each way in which llama.cpp rounds the inputs of a part of a model
    differently.
    """
    packed = [module for _, module in part.named_modules() if isinstance(module, PackedMatrix)]
    in_blocks = [matrix for matrix in packed if matrix.grid is not F16]
    activations = {matrix.activations for matrix in in_blocks}
    sentences = []
    if len(in_blocks) < len(packed):
        sentences.append(
            "this model does not round the inputs of float16 matrices; "
            "llama.cpp rounds them to float16"
        )
    if "none" in activations:
        sentences.append(
            "this model does not round the inputs of its matrices; "
            "llama.cpp rounds them to int8 in groups of 32"
        )
    if "int8-token" in activations:
        sentences.append(
            "this model rounds inputs with one scale per token; "
            "llama.cpp rounds them in groups of 32"
        )
    if "int8" in activations and {matrix.grid.group_size for matrix in in_blocks} - {32}:
        sentences.append(
            "this model rounds inputs in groups of 32; "
            "llama.cpp rounds those of q4_k and q6_k in groups of 256"
        )
    return sentences


def architecture_of(config: ModelConfig) -> str:
    """Return llama.cpp's name for models of this kind. Raises UserError if it has none."""
    if config.qkv_bias and config.qk_norm:
        raise UserError(
            "a model with both qkv_bias and qk_norm cannot be written as a GGUF file (supported: "
            "one of them, or neither)"
        )
    name = "qwen2" if config.qkv_bias else "qwen3" if config.qk_norm else "llama"
    if name != "llama" and config.rope_scaling.startswith("llama3"):
        raise UserError(
            f"a model with rope_scaling {config.rope_scaling} and the biases or norms of {name} "
            "cannot be written as a GGUF file (supported: rope_scaling none or linear)"
        )
    return name


def _tensors(model: LanguageModel) -> dict[str, tuple[str, Array]]:
    """Return the type and the rows of each tensor.

    Raises UserError for a grid that is not a type of ggml.
    """
    config = model.config
    members = dict(model.trunk.named_modules()) | dict(model.trunk.named_parameters())
    halves = config.head_dim if architecture_of(config) in HALVES else 0
    found = stored_tensors(layout(config, NAMES), members, halves)
    factors = factors_of(config)
    if factors is not None:
        found[ROPE_FACTORS] = "f32", factors
    return found


def stored_tensors(
    parameters: Iterable[tuple[str, list[Part]]],
    members: Mapping[str, Module | Parameter],
    halves: int = 0,
) -> dict[str, tuple[str, Array]]:
    """Return the type and the rows of the tensors of these parameters, by name.

    members: the modules and the biases. halves: above 0, the numbers per head of rotated rows that
    are to have the order of Hugging Face. Raises UserError for a grid that is not a type of ggml.
    """
    found = {}
    for name, parts in parameters:
        member = name.removesuffix(".weight")
        kind, array = _stored(member, members[member])
        for part, rows in split(parts, array):
            if halves and part.rotated:
                rows = to_halves(rows, halves)
            found[part.name] = kind, np.ascontiguousarray(rows)
    return found


def _stored(name: str, module: Module | Parameter) -> tuple[str, Array]:
    """Return the type and the rows of a module or a bias: floats, or blocks as bytes."""
    if not isinstance(module, PackedMatrix):
        parameter = module if isinstance(module, Parameter) else module.weight
        array = to_numpy(parameter.data)
        _require_finite(name, bool(np.isfinite(array.min()) and np.isfinite(array.max())))
        return "f32", array
    _require_finite(name, packing.has_finite_scales(module.grid, module.packed))
    if module.grid is F16:
        return "f16", to_numpy(module.packed).view("<f2")
    if module.grid.name not in BLOCK_GRIDS:
        raise UserError(
            f"{name} is stored on the grid {module.grid.name}, which a GGUF file cannot hold "
            f"(supported: {', '.join(BLOCK_GRIDS)}, {F16.name} and full precision)"
        )
    return module.grid.name, to_numpy(module.packed)


def _require_finite(name: str, finite: bool) -> None:
    if not finite:
        raise UserError(
            f"{name} has weights that are NaN or infinite, which cannot be exported: train the "
            "model again with a lower learning rate"
        )


def add_activations(writer: "GGUFWriter", part: Module) -> None:
    """Add how the inputs of blocks are rounded, if all are rounded alike. part: of the model."""
    modules = [module for _, module in part.named_modules()]
    packed = [m for m in modules if isinstance(m, PackedMatrix) and m.grid is not F16]
    roundings = {module.activations for module in packed}
    if len(roundings) == 1:
        writer.add_string("minimtp.activations", roundings.pop())


def add_config(writer: "GGUFWriter", config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocabulary_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    if config.num_heads * config.head_dim != config.hidden_size:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    if config.rope_scaling != "none":
        writer.add_string(OWN_KEY, config.rope_scaling)
    if config.rope_scaling.startswith("linear"):
        writer.add_string(f"{writer.arch}.rope.scaling.type", "linear")
        writer.add_rope_scaling_factor(float(config.rope_scaling.partition(":")[2]))
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _add_vocabulary(writer: "GGUFWriter", vocabulary: Vocabulary) -> None:
    is_pieces = vocabulary.pre == pieces.PRE
    writer.add_tokenizer_model(pieces.MODEL if is_pieces else MODEL)
    writer.add_tokenizer_pre("default" if is_pieces else vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if is_pieces:
        writer.add_token_scores(pieces.scores_from(vocabulary.tokens, vocabulary.merges))
        writer.add_add_space_prefix(vocabulary.space_prefix)
    else:
        writer.add_token_merges(vocabulary.merges)
    begins = vocabulary.begin is not None
    # The end token as in GPT-2, if there is none; llama.cpp would assume token 11.
    writer.add_bos_token_id(vocabulary.begin if begins else vocabulary.end)
    writer.add_eos_token_id(vocabulary.end)
    if vocabulary.ends:
        writer.add_eot_token_id(vocabulary.ends[0])
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(False)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
