"""Export: the trunk of a model as a Hugging Face folder, which `transformers` and vLLM load.

The weights are written as float32 or bfloat16. A packed matrix is written as the numbers that it
stands for, so the folder computes what the quantized model computes, apart from the rounding of
inputs. float32 holds these numbers exactly. bfloat16 does not: it has 8 bits where a 4-bit code
times a float16 scale needs up to 15.
"""

import json
from pathlib import Path

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.module import Module
from minimtp.errors import UserError
from minimtp.formats.huggingface import config as configuration
from minimtp.formats.huggingface.layout import layout, to_halves
from minimtp.model.config import ModelConfig
from minimtp.model.rotary import parse_scaling
from minimtp.model.transformer import LanguageModel
from minimtp.quant.packed_matrix import PackedMatrix

DTYPES = ("float32", "bfloat16")


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
        "model_type": family.removesuffix("ForCausalLM").lower(),
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
    trunk = model.trunk
    modules = dict(trunk.named_modules())
    tensors = {}
    for name, parts in layout(trunk.config):
        values, start = _values(name, modules), 0
        for part in parts:
            rows = values[start : start + part.shape[0]]
            start += part.shape[0]
            if part.rotated:
                rows = to_halves(rows, trunk.config.head_dim)
            tensors[part.name] = np.ascontiguousarray(
                as_bfloat16(rows) if dtype == "bfloat16" else rows
            )
    return tensors


def as_bfloat16(values: Array) -> Array:
    """Round finite float32 numbers to the nearest bfloat16, ties to even. Return its bits."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _values(name: str, modules: dict[str, Module]) -> Array:
    """Return the numbers of a parameter as float32, in the form of `layout`."""
    module = modules[name.rpartition(".")[0]]
    if isinstance(module, PackedMatrix):
        return to_numpy(module.dequantize())
    return to_numpy(getattr(module, name.rpartition(".")[2]).data)


def write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
