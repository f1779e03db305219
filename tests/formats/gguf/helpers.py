"""Requirements and expected file contents for the GGUF tests."""

import importlib.util

import pytest
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.process import find_llama
from minimtp.engine.module import Module
from minimtp.engine.tensor import Tensor
from minimtp.formats.gguf.writer import write_gguf
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.modules import FakeQuantizedMatrix
from minimtp.training.tokenizers.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()


needs_gguf = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="needs the extra interop (gguf)"
)


needs_tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the extra interop (tokenizers)"
)


needs_llama = pytest.mark.skipif(
    find_llama().python is None, reason=f"llama.cpp {find_llama().obstacle}"
)


unusual_texts = st.one_of(
    st.text(), st.text(" \n\t\r'sdrevlm1a\u2581\u00a0\ufeff\u00e9\u0301\U0001f389\0")
)


def written(tmp_path, model, tokenizer=BYTES):
    """Write a model and read it with the package gguf: (metadata, {tensor: (type, array)})."""
    from gguf import GGUFReader

    write_gguf(tmp_path / "model.gguf", model, tokenizer, "model")
    reader = GGUFReader(tmp_path / "model.gguf")
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    return metadata, {
        tensor.name: (tensor.tensor_type, np.array(tensor.data)) for tensor in reader.tensors
    }


def expected(model):
    """Return {tensor name in llama.cpp: (module, first row, row after the last)}."""
    config, trunk = model.config, model.trunk
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    width, inner = config.hidden_size, config.intermediate_size
    found = {
        "token_embd": (trunk.embedding, 0, config.vocabulary_size),
        "output_norm": (trunk.final_norm, 0, width),
    }
    if not config.tied_embeddings:
        found["output"] = trunk.output, 0, config.vocabulary_size
    for i, block in enumerate(trunk.blocks):
        qkv, gate_up = block.attention.qkv, block.feed_forward.gate_up
        parts = {
            "attn_norm": (block.attention_norm, 0, width),
            "attn_q": (qkv, 0, queries),
            "attn_k": (qkv, queries, queries + keys),
            "attn_v": (qkv, queries + keys, queries + 2 * keys),
            "attn_output": (block.attention.output, 0, width),
            "ffn_norm": (block.feed_forward_norm, 0, width),
            "ffn_gate": (gate_up, 0, inner),
            "ffn_up": (gate_up, inner, 2 * inner),
            "ffn_down": (block.feed_forward.down, 0, width),
        }
        found |= {f"blk.{i}.{name}": rows for name, rows in parts.items()}
    return {f"{name}.weight": rows for name, rows in found.items()}


def check_tensors(model, tensors):
    from gguf.quants import dequantize

    if any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules()):
        model = convert(model)
    assert tensors.keys() == expected(model).keys()
    for name, (module, first, end) in expected(model).items():
        kind, array = tensors[name]
        if isinstance(module, PackedMatrix):
            assert kind.name.lower() == module.grid.name
            assert array.tobytes() == module.packed[first:end].tobytes(), name
            np.testing.assert_array_equal(dequantize(array, kind), module.dequantize()[first:end])
        else:
            assert kind.name == "F32" and array.shape == module.weight.data[first:end].shape
            assert array.tobytes() == module.weight.data[first:end].tobytes(), name


class AsInGgml(Module):
    """A packed matrix in float64. The package gguf rounds its inputs to ggml's Q8_0."""

    def __init__(self, matrix):
        self.weight = matrix.dequantize().astype(np.float64)

    def __call__(self, x):
        return self.product(x) if isinstance(x, Tensor) else Tensor(self.weight[x])

    def product(self, x):
        from gguf import GGMLQuantizationType, quants

        kind, rows = GGMLQuantizationType.Q8_0, x.data.reshape(-1, x.shape[-1]).astype(np.float32)
        rounded = quants.dequantize(quants.quantize(rows, kind), kind).astype(np.float64)
        return Tensor((rounded @ self.weight.T).reshape(*x.shape[:-1], -1))

    logits = product
