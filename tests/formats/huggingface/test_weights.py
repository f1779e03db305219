"""The weights of a Hugging Face folder give the logits of `transformers`, in every stored type."""

import importlib.util
import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.formats.huggingface.config import read_config, recipe_of
from minimtp.formats.huggingface.reader import load_weights
from minimtp.formats.layout import to_halves, to_neighbours
from minimtp.training.build import build_model
from tests.formats.huggingface.folders import (
    CONFIGURATIONS,
    TOKENS,
    configuration,
    weights,
    write_folder,
)

STORED = np.load(Path(__file__).parents[2] / "vectors" / "huggingface.npz")
each_configuration = pytest.mark.parametrize("name", CONFIGURATIONS)


def load(folder):
    model = build_model(recipe_of(read_config(folder), folder / "config.json"), None)
    load_weights(folder, model)
    return model


def logits(model):
    return model.logits(model.hidden(TOKENS[None])).data[0]


@each_configuration
def test_logits_equal_those_that_transformers_computed_for_the_same_folder(name, tmp_path):
    found = logits(load(write_folder(tmp_path, configuration(name))))[9::10]
    np.testing.assert_allclose(found, STORED[name], rtol=0, atol=1e-4)


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
@each_configuration
@pytest.mark.parametrize("seed", [1, 2])
def test_logits_equal_those_of_transformers_here_and_now(name, seed, tmp_path):
    import torch
    import transformers

    config = configuration(name)
    write_folder(tmp_path, config, weights(config, seed))
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = peer(torch.tensor(TOKENS)[None]).logits[0].numpy()
    np.testing.assert_allclose(logits(load(tmp_path)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["halves", "neighbours"])
def test_the_two_orders_of_rotated_channels_are_inverses_and_keep_every_row(kind):
    rows = np.arange(3 * 8 * 2.0).reshape(24, 2)
    there, back = (to_halves, to_neighbours)[:: 1 if kind == "halves" else -1]
    assert np.array_equal(back(there(rows, 8), 8), rows)
    assert there(rows, 8)[:, 0].argsort()[:2].tolist() == ([0, 4] if kind == "halves" else [0, 2])


def as_bfloat16(array):
    """Round to the upper half of a float32, for numbers that bfloat16 holds exactly."""
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def write_raw(path, arrays, types):
    """Write a safetensors file whose tensors have these types, byte by byte."""
    header, blob = {}, b""
    for name, array in arrays.items():
        header[name] = {
            "dtype": types[name],
            "shape": list(array.shape),
            "data_offsets": [len(blob), len(blob) + array.nbytes],
        }
        blob += array.tobytes()
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + blob)


@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_weights_stored_in_16_bits_are_widened_without_a_change(stored, tmp_path):
    config = configuration("qwen3")
    exact = {name: np.float32(np.round(w * 8) / 8) for name, w in weights(config).items()}
    narrow = {
        name: as_bfloat16(w) if stored == "BF16" else w.astype(np.float16)
        for name, w in exact.items()
    }
    write_folder(tmp_path / "wide", config, exact)
    write_folder(tmp_path / "narrow", config)
    write_raw(tmp_path / "narrow" / "model.safetensors", narrow, dict.fromkeys(narrow, stored))
    found, expected = logits(load(tmp_path / "narrow")), logits(load(tmp_path / "wide"))
    assert found.tobytes() == expected.tobytes()


def write_shards(folder, config, shards=3):
    """Write the weights as several files with an index. Return the index."""
    tensors = weights(config)
    write_folder(folder, config, tensors)
    (folder / "model.safetensors").unlink()
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return index


def test_weights_in_several_files_are_those_of_one_file(tmp_path):
    config = configuration("llama")
    write_shards(tmp_path / "several", config)
    write_folder(tmp_path / "one", config)
    found, expected = logits(load(tmp_path / "several")), logits(load(tmp_path / "one"))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "fault", ["missing file", "cut file", "missing entry", "outside", "renamed"]
)
def test_damaged_shards_get_one_sentence_that_names_the_file(fault, tmp_path):
    index = write_shards(tmp_path, configuration("llama"))
    file = index["model.norm.weight"]
    path, named = tmp_path / file, file
    if fault == "missing file":
        path.unlink()
    elif fault == "cut file":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        if fault == "missing entry":
            del index["model.norm.weight"]
            named = "model.norm.weight"
        elif fault == "outside":
            index["model.norm.weight"] = f"../{tmp_path.name}/{file}"
            named = "../"
        else:
            index["model.norm.weights"] = index.pop("model.norm.weight")
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(UserError, match=named) as failure:
        load(tmp_path)
    assert len(str(failure.value).replace(str(tmp_path), "FOLDER")) <= 300


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": []}, "unsupported architecture none"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "RoPE scaling yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, "factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3"),
        ({"hidden_size": 30}, "30"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"head_dim": 7}, "7"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"num_hidden_layers": 3}, "model.layers.2"),
        ({"num_hidden_layers": 1}, "model.layers.1"),
        ({"intermediate_size": 96}, "gate_proj"),
        ({"tie_word_embeddings": True, "vocab_size": 62}, "embed_tokens"),
    ],
)
def test_an_unsupported_or_wrong_configuration_gets_one_sentence_that_names_it(
    change, named, tmp_path
):
    write_folder(tmp_path, configuration("llama"))
    (tmp_path / "config.json").write_text(json.dumps(configuration("llama") | change))
    with pytest.raises(UserError, match=named) as failure:
        load(tmp_path)
    assert len(str(failure.value).replace(str(tmp_path), "FOLDER")) <= 300


def test_a_sliding_window_bounds_the_context_so_that_the_window_never_hides_anything(tmp_path):
    config = configuration("mistral") | {"sliding_window": 24}
    recipe = recipe_of(read_config(write_folder(tmp_path, config)), tmp_path)
    assert recipe.context_length == 24
    unused = configuration("qwen2")
    recipe = recipe_of(read_config(write_folder(tmp_path / "qwen", unused)), tmp_path)
    assert (unused["sliding_window"], recipe.context_length) == (8, 64)
