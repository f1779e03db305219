"""Files with any type per matrix, and of every supported family, load as the numbers they hold."""

import pytest

from minimtp.backend import numpy as np
from minimtp.decode.drafters.deploy import deploy
from minimtp.errors import UserError
from minimtp.formats.gguf import q5_k
from minimtp.formats.gguf.container import Value
from minimtp.formats.gguf.layout import HALVES, NAMES
from minimtp.formats.gguf.reader import load_gguf
from minimtp.formats.gguf.vocabulary import vocabulary_of
from minimtp.formats.gguf.writer import write_gguf
from minimtp.formats.layout import layout, to_halves
from minimtp.model.rotary import scaled
from minimtp.quant import packing
from minimtp.quant.grids import BLOCK_GRIDS
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.recipe import Recipe
from tests.formats.gguf.helpers import BYTES, needs_gguf
from tests.formats.gguf.raw import Tensor, file_bytes

TYPES = ["f32", "f16", "bf16", *BLOCK_GRIDS, q5_k.NAME]


def stored(kind, array):
    """Return the array (N, K) or (N,) as a tensor of this type."""
    if kind == q5_k.NAME:
        content = random_q5_k(array.shape)
    elif kind in BLOCK_GRIDS:
        content = packing.quantize(BLOCK_GRIDS[kind], array)
    elif kind == "bf16":
        content = (array.view(np.uint32) >> 16).astype("<u2")
    else:
        content = array.astype({"f32": "<f4", "f16": "<f2"}[kind])
    return Tensor(kind, array.shape, content.tobytes())


def random_q5_k(shape):
    """Return blocks with random codes, and with small numbers in front."""
    rng, count = np.random.default_rng(shape[0]), shape[0] * shape[1] // 256
    blocks = rng.integers(0, 256, (count, q5_k.BLOCK_BYTES)).astype(np.uint8)
    blocks[:, :4] = rng.uniform(-0.01, 0.01, (count, 2)).astype("<f2").view(np.uint8)
    return blocks


def numbers(tensor):
    """Return the numbers of a tensor, as the package gguf reads them."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[tensor.kind.upper()]
    rows = np.frombuffer(tensor.content, np.uint8).reshape(tensor.shape[0], -1)
    return dequantize(rows, kind).reshape(tensor.shape)


def random_model(**settings):
    """Return a small model whose every parameter is random, so that no mistake hides in zeros."""
    sizes = {"num_layers": 2, "hidden_size": 256, "num_heads": 4, "num_kv_heads": 2}
    recipe = Recipe(**(sizes | {"intermediate_size": 256, "context_length": 32} | settings))
    model, rng = build_model(recipe, np.random.default_rng(1)), np.random.default_rng(2)
    for parameter in model.parameters():
        parameter.data = rng.standard_normal(parameter.shape, np.float32) * 0.1 + 0.05
    return model


def written(path, model, types, architecture="llama", extra=None, more_tensors=None):
    """Write the model with a type for each matrix, and return its tensors.

    types: called with the name of a matrix.
    """
    config, parameters = model.config, dict(model.named_parameters())
    tensors = {}
    for name, parts in layout(config, NAMES):
        start = 0
        for part in parts:
            rows = parameters[name].data[start : start + part.shape[0]]
            start += part.shape[0]
            if architecture in HALVES and part.rotated:
                rows = to_halves(rows, config.head_dim)
            kind = types(part.name) if rows.ndim == 2 else "f32"
            tensors[part.name] = stored(kind, np.ascontiguousarray(rows))
    sizes = {
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
    }
    vocabulary = vocabulary_of(BYTES)
    metadata = {
        "general.architecture": Value("string", architecture),
        "tokenizer.ggml.model": Value("string", "gpt2"),
        "tokenizer.ggml.pre": Value("string", vocabulary.pre),
        "tokenizer.ggml.tokens": Value("array of string", vocabulary.tokens),
        "tokenizer.ggml.token_type": Value("array of int32", vocabulary.types),
        "tokenizer.ggml.merges": Value("array of string", vocabulary.merges),
        "tokenizer.ggml.eos_token_id": Value("uint32", vocabulary.end),
        f"{architecture}.attention.layer_norm_rms_epsilon": Value("float32", config.norm_eps),
        f"{architecture}.rope.freq_base": Value("float32", config.rope_theta),
    }
    metadata |= {f"{architecture}.{key}": Value("uint32", size) for key, size in sizes.items()}
    path.write_bytes(file_bytes(metadata | (extra or {}), tensors | (more_tensors or {})))
    return tensors


def weights_of(model):
    """Return every parameter of a model as float32, packed or not."""
    found = {name: parameter.data for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        if hasattr(module, "packed"):
            found[f"{name}.weight"] = module.dequantize()
    return found


KERNEL_TYPES = ["q4_0", "q8_0"]


@pytest.mark.parametrize("types", [TYPES, KERNEL_TYPES], ids=["all types", "types with kernels"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dequantize", [False, True], ids=["as it is", "float32"])
def test_a_file_with_a_type_for_each_matrix_loads_as_the_numbers_it_holds(
    tmp_path, seed, dequantize, types
):
    pytest.importorskip("gguf")
    rng, model = np.random.default_rng(seed), random_model(tied_embeddings=seed % 2 == 0)
    path = tmp_path / "mixed.gguf"
    tensors = written(path, model, lambda name: types[rng.integers(len(types))])
    loaded = load_gguf(path, dequantize=dequantize)
    assert loaded.config == model.config
    found = weights_of(loaded.model)
    for name, parts in layout(model.config, NAMES):
        expected = np.concatenate([numbers(tensors[part.name]) for part in parts])
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    is_packed = [hasattr(module, "packed") for _, module in loaded.model.named_modules()]
    assert any(is_packed) == (not dequantize)
    assert np.isfinite(deploy(loaded.model)[0].forward(np.arange(20)).logits).all()


def test_types_that_cannot_be_read_are_named_with_those_that_can(tmp_path):
    model = random_model()
    tensors = written(tmp_path / "model.gguf", model, lambda name: "q4_0")
    name = "blk.0.ffn_down.weight"
    content = bytes(256 * 110)
    (tmp_path / "model.gguf").unlink()
    more = {name: Tensor("q3_k", (256, 256), content)}
    written(tmp_path / "model.gguf", model, lambda name: "q4_0", more_tensors=more)
    assert name in tensors
    with pytest.raises(UserError, match="ffn_down.weight is stored as q3_k.*supported: f32, f16"):
        load_gguf(tmp_path / "model.gguf")


FAMILIES = {
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 32},
    "llama": {"head_dim": 32},
}


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_family_with_biases_normalized_heads_or_another_order_loads_as_our_model(
    tmp_path, architecture, kind
):
    model = random_model(**FAMILIES[architecture])
    path = tmp_path / "model.gguf"
    written(path, model, lambda name: kind, architecture)
    loaded = load_gguf(path)
    assert loaded.config == model.config
    found = weights_of(loaded.model)
    for name, parameter in model.named_parameters():
        expected = parameter.data
        if kind == "q8_0" and expected.ndim == 2:
            blocks = packing.quantize(BLOCK_GRIDS[kind], expected)
            expected = packing.dequantize(BLOCK_GRIDS[kind], blocks)
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_rope_for_longer_contexts_is_found_in_the_file(tmp_path):
    path, model = tmp_path / "model.gguf", random_model(rope_theta=5e5)
    extra = {
        "llama.rope.scaling.type": Value("string", "linear"),
        "llama.rope.scaling.factor": Value("float32", 2.5),
    }
    written(path, model, lambda name: "f32", extra=extra)
    assert load_gguf(path).config.rope_scaling == "linear:2.5"

    base = 5e5 ** (-np.arange(0, 64, 2) / 64)
    factors = (base / scaled(base, "llama3:32:1:4:8192")).astype(np.float32)
    more = {"rope_freqs.weight": Tensor("f32", factors.shape, factors.tobytes())}
    written(path, model, lambda name: "f32", more_tensors=more)
    assert load_gguf(path).config.rope_scaling == "llama3:32:1:4:8192"

    factors[7] *= 1.5
    more = {"rope_freqs.weight": Tensor("f32", factors.shape, factors.tobytes())}
    written(path, model, lambda name: "f32", more_tensors=more)
    with pytest.raises(UserError, match="RoPE scaling in rope_freqs.weight is not supported"):
        load_gguf(path)


@needs_gguf
@pytest.mark.parametrize("packed", [False, True], ids=["float32", "q8_0"])
@pytest.mark.parametrize(
    "settings",
    [
        {"qkv_bias": True},
        {"qk_norm": True, "head_dim": 32},
        {"rope_scaling": "llama3:8:1:4:8192"},
        {"rope_scaling": "llama3:3:1.5:5:100", "head_dim": 32},
        {"rope_scaling": "linear:2.5", "qkv_bias": True},
    ],
    ids=str,
)
def test_a_model_of_any_family_is_written_and_loaded_as_the_same_model(tmp_path, settings, packed):
    model = random_model(**settings)
    if packed:
        model = round_to_nearest(model, QuantizationSpec("q8_0", "q8_0"))
    write_gguf(tmp_path / "model.gguf", model, BYTES, "model")
    again = load_gguf(tmp_path / "model.gguf").model
    assert again.config == model.config
    prompt = np.arange(20)
    mine, theirs = (deploy(m)[0].forward(prompt).logits for m in (model, again))
    assert mine.tobytes() == theirs.tobytes()
    write_gguf(tmp_path / "again.gguf", again, BYTES, "model")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "model.gguf").read_bytes()


@needs_gguf
@pytest.mark.parametrize(
    "settings",
    [{"qkv_bias": True, "qk_norm": True}, {"qk_norm": True, "rope_scaling": "llama3:8:1:4:8192"}],
    ids=str,
)
def test_a_model_that_llama_cpp_cannot_hold_is_not_written(tmp_path, settings):
    with pytest.raises(UserError, match="cannot be written as a GGUF file"):
        write_gguf(tmp_path / "model.gguf", random_model(**settings), BYTES, "model")
    assert not list(tmp_path.iterdir())
