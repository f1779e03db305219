"""Export: the trunk of a model as a Hugging Face folder, which `transformers` and vLLM load.

The weights are written as float32 or bfloat16. A packed matrix is written as the numbers that it
stands for, so the folder computes what the quantized model computes, apart from the rounding of
inputs. float32 holds these numbers exactly. bfloat16 does not: it has 8 bits where a 4-bit code
times a float16 scale needs up to 15.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.module import Module
from minimtp.errors import UserError
from minimtp.files import FileKind, atomic_write, new_folder, write_text
from minimtp.formats.exported import Exported
from minimtp.formats.gguf.vocabulary import content_of, vocabulary_of
from minimtp.formats.huggingface import config as configuration
from minimtp.formats.huggingface import tokenizer as tokenizers
from minimtp.formats.huggingface.layout import NAMES
from minimtp.formats.huggingface.shards import WHOLE
from minimtp.formats.layout import Part, layout, split, to_halves
from minimtp.kernels.plain.bfloat16 import to_bfloat16_bits
from minimtp.model.config import ModelConfig
from minimtp.model.heads import Eagle3Heads
from minimtp.model.loaded import Tokenizer
from minimtp.model.rotary import parse_scaling
from minimtp.model.transformer import LanguageModel
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.training.run.tensor_file import write_safetensors
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from minimtp.training.tokenizers.file_tokenizer import FileTokenizer

PART = FileKind("a part of a model")


def config_of(config: ModelConfig, dtype: str) -> dict[str, object]:
    """Return the content of config.json. Raises UserError for a model of no supported family."""
    settings = {"qkv_bias": config.qkv_bias, "qk_norm": config.qk_norm}
    wanted = {name: True for name, used in settings.items() if used}
    family = next((f for f, s in configuration.FAMILIES.items() if s == wanted), None)
    if family is None:
        raise UserError(
            "a model with qkv_bias and qk_norm belongs to no family of transformers: "
            "export a model with one of them"
        )
    content: dict[str, object] = {
        "architectures": [family],
        "model_type": configuration.model_type(family),
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": dtype,
    }
    if config.rope_scaling != "none":
        kind, numbers = parse_scaling(config.rope_scaling)
        keys = configuration.SCALING_KEYS[kind]
        values = dict(zip(keys, numbers, strict=True))
        if kind == "llama3":
            values[keys[-1]] = int(numbers[-1])
        content["rope_scaling"] = {"rope_type": kind, **values}
    return content


def tensors_of(model: LanguageModel, dtype: str) -> dict[str, Array]:
    """Return the tensors of the trunk: float32, or the bits of bfloat16 as uint16."""
    modules = dict(model.trunk.named_modules())
    parameters = layout(model.config, NAMES)
    return stored_tensors(parameters, modules, model.config.head_dim, dtype)


def stored_tensors(
    parameters: Iterable[tuple[str, list[Part]]],
    modules: Mapping[str, Module],
    head_dim: int,
    dtype: str,
) -> dict[str, Array]:
    """Return the tensors of these parameters by name. modules: have the parameters."""
    tensors = {}
    for name, parts in parameters:
        for part, rows in split(parts, _values(name, modules)):
            if part.rotated:
                rows = to_halves(rows, head_dim)
            tensors[part.name] = np.ascontiguousarray(
                to_bfloat16_bits(rows) if dtype == "bfloat16" else rows
            )
    return tensors


def _values(name: str, modules: Mapping[str, Module]) -> Array:
    """Return the numbers of a parameter as float32, in the form of `layout`."""
    module = modules[name.rpartition(".")[0]]
    if isinstance(module, PackedMatrix):
        return to_numpy(module.dequantize())
    return to_numpy(getattr(module, name.rpartition(".")[2]).data)


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, object]:
    """Return the files of a tokenizer: {name: content that JSON can hold}."""
    if isinstance(tokenizer, ByteTokenizer):
        tokenizer = as_file_tokenizer()
    content = json.loads(str(tokenizer.to_dict()["file"]))
    names = {token["id"]: token["content"] for token in content.get("added_tokens") or ()}
    names |= {token: name for name, token in content["model"]["vocab"].items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": names[tokenizer.end_token],
    }
    if tokenizer.begin_tokens:
        settings["bos_token"] = names[tokenizer.begin_tokens[0]]
        content["post_processor"] = _beginning(tokenizer.begin_tokens, names)
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    ends = [*tokenizer.end_tokens]
    return {
        tokenizers.FILE_NAME: content,
        tokenizers.SETTINGS_FILE: settings,
        tokenizers.GENERATION_FILE: {"eos_token_id": ends if len(ends) > 1 else ends[0]},
    }


def as_file_tokenizer() -> FileTokenizer:
    """Return the byte tokenizer as a file: byte-level BPE without merges."""
    vocabulary = vocabulary_of(ByteTokenizer())
    return FileTokenizer(json.dumps(content_of(vocabulary)))


def _beginning(tokens: Sequence[int], names: Mapping[int, str]) -> dict[str, object]:
    """Return the post-processor that puts these tokens before a text."""
    marks = [{"SpecialToken": {"id": names[token], "type_id": 0}} for token in tokens]
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    special = {names[t]: {"id": names[t], "ids": [t], "tokens": [names[t]]} for t in tokens}
    return {
        "type": "TemplateProcessing",
        "single": [*marks, first],
        "pair": [*marks, first, second],
        "special_tokens": special,
    }


class Content(NamedTuple):
    """What a folder holds: the JSON of its small files by name, and its tensors."""

    files: dict[str, object]
    tensors: dict[str, Array]


def model_content(model: LanguageModel, tokenizer: Tokenizer, dtype: str) -> Content:
    """Return the content of the folder of a model in full precision or packed.

    Raises UserError if no family of transformers fits it.
    """
    files = {configuration.FILE_NAME: config_of(model.config, dtype), **tokenizer_files(tokenizer)}
    return Content(files, tensors_of(model, dtype))


@contextmanager
def written(path: Path, content: Content) -> Iterator[None]:
    """Write a new folder, which is moved to its place when the block ends.

    Raises UserError if the folder cannot be written.
    """
    with new_folder(path) as folder:
        for name, value in content.files.items():
            text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
            write_text(folder / name, text, PART)
        with atomic_write(folder / WHOLE, PART) as file:
            write_safetensors(file, content.tensors, {"format": "pt"})
        yield


def exported(path: Path, content: Content, caveats: list[str]) -> Exported:
    """Describe a folder that was written."""
    kinds = (array.dtype.name for array in content.tensors.values())
    types = Counter("bfloat16" if kind == "uint16" else kind for kind in kinds)
    return Exported(path, sum(file.stat().st_size for file in path.iterdir()), types, caveats)


def caveats(model: LanguageModel, dtype: str) -> list[str]:
    """Return a sentence for each property of the model that the folder cannot hold."""
    packed = [m for _, m in model.trunk.named_modules() if isinstance(m, PackedMatrix)]
    sentences = []
    if model.depth:
        hint = ""
        if isinstance(model.heads, Eagle3Heads):
            hint = ": --draft PATH writes them to a folder of their own"
        sentences.append(f"the {model.depth} prediction heads are not in the folder{hint}")
    if packed and dtype == "bfloat16":
        sentences.append(
            "bfloat16 rounds the quantized weights once more: float32 holds them exactly"
        )
    if any(matrix.activations != "none" for matrix in packed):
        sentences.append(
            "this model rounds the inputs of its matrices to int8; transformers does not"
        )
    return sentences
