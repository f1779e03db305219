"""Damaged and odd Hugging Face folders: loaded as `transformers` would, or refused in one sentence
that names the file and its key.
"""

import json
import os

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.formats.huggingface.config import read_config
from tests.formats.huggingface.folders import configuration, weights
from tests.formats.huggingface.test_folder import whole_folder
from tests.fuzz.mutate import check_sentence

FILES = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "generation_config.json", "chat_template.jinja",
)  # fmt: skip
OBSTACLES = {
    "a folder": lambda path: path.mkdir(),
    "a named pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def refusal(folder, names):
    with pytest.raises(UserError) as refused:
        minimtp.load(folder)
    check_sentence(str(refused.value), names)
    return str(refused.value)


def change(folder, name, **values):
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_file_is_refused_with_its_name(name, obstacle, tmp_path):
    """Not ignored: without generation_config.json, for instance, texts would end elsewhere."""
    folder = whole_folder(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    OBSTACLES[obstacle](folder / name)
    refusal(folder, folder / name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(name, tmp_path):
    folder = whole_folder(tmp_path / "model")
    (folder / name).unlink()
    refusal(folder, folder / name)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("token", [-1, 257, 5000, 2**24, 10**30, [256, 999], [0, -5]])
def test_an_end_token_beyond_the_vocabulary_names_its_file_and_key(name, token, tmp_path):
    folder = whole_folder(tmp_path / "model")
    if name == "config.json":
        (folder / "generation_config.json").unlink()
    change(folder, name, eos_token_id=token)
    assert "eos_token_id" in refusal(folder, folder / name)


OUT_OF_RANGE = {
    "vocab_size": (1, 10**9, 2**62), "hidden_size": (1, 10**9), "intermediate_size": (2**40,),
    "num_hidden_layers": (5000, 2**62), "num_attention_heads": (10**7,),
    "num_key_value_heads": (2**40,), "max_position_embeddings": (1, 2**62),
    "head_dim": (1, 10**9), "rms_norm_eps": (1e300, 0.5), "rope_theta": (1e-300, 1.0, 1e300),
}  # fmt: skip


@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_a_size_that_no_model_has_is_refused_under_the_name_that_the_file_has(key, tmp_path):
    folder = whole_folder(tmp_path / "model")
    for value in OUT_OF_RANGE[key]:
        change(folder, "config.json", **{key: value})
        message = refusal(folder, folder / "config.json")
        own = ("vocabulary_size", "num_layers", "num_heads", "num_kv_heads", "context_length")
        assert key in message and not any(f"{name} must" in message for name in own), message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_theta": 1e300}, "rope_theta"),
        ({"rope_scaling": {"type": "linear", "factor": 1e13}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": 1.1e9}}, "more than 0 and at most 1e9"),
        (
            {"rope_theta": None, "rope_parameters": {"rope_theta": 2e9}},
            "more than 1 and at most 1e9",
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
        ({"layer_types": ["linear_attention"] * 2}, "linear_attention"),
        ({"layer_types": ["chunked_attention", "full_attention"]}, "chunked_attention"),
        ({"model_type": "mixtral"}, "mixtral"),
        ({"model_type": "granite"}, "granite"),
    ],
)
def test_a_computation_that_is_not_supported_is_refused_and_never_ignored(changes, words, tmp_path):
    folder = whole_folder(tmp_path / "model")
    change(folder, "config.json", **changes)
    message = refusal(folder, folder / "config.json")
    assert words in message and "must be a number above 0" not in message


LINEAR = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": LINEAR}, "rope_type"),
        ({"rope_parameters": LINEAR | {"factor": 4.0}, "rope_scaling": LINEAR}, "factor"),
        ({"rope_scaling": LINEAR | {"type": "dynamic"}}, "rope_type"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e5}}, "rope_theta"),
        ({"rope_parameters": {"factor": 2.0}, "rope_scaling": {"type": "yarn"}}, "yarn"),
    ],
)
def test_what_versions_of_transformers_would_read_differently_is_refused(changes, words, tmp_path):
    folder = whole_folder(tmp_path / "model")
    change(folder, "config.json", **changes)
    assert words in refusal(folder, folder / "config.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": LINEAR, "rope_scaling": LINEAR},
        {"rope_parameters": LINEAR | {"type": "linear"}, "rope_scaling": None},
        {"rope_parameters": LINEAR | {"rope_theta": 1e4}, "rope_theta": 1e4},
        {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": LINEAR | {"rope_theta": None}},
    ],
)
def test_the_scaling_of_rope_may_be_said_twice(changes, tmp_path):
    folder = whole_folder(tmp_path / "model")
    change(folder, "config.json", **changes)
    assert minimtp.load(folder).config.rope_scaling == "linear:2"


def test_the_names_of_one_activation_are_the_same_model(tmp_path):
    first = minimtp.load(whole_folder(tmp_path / "silu", hidden_act="silu"))
    second = minimtp.load(whole_folder(tmp_path / "swish", hidden_act="swish"))
    assert first.config == second.config


@pytest.mark.parametrize(
    "file", ["", ".", "..", "../other/model.safetensors", "sub/a", "a\0b", "\ud800", "x" * 5000]
)
def test_an_index_names_files_of_its_own_folder_only(file, tmp_path):
    folder = whole_folder(tmp_path / "model")
    names = weights(configuration("llama"))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors") | {min(names): file}})
    )
    refusal(folder, folder / "model.safetensors.index.json")


@pytest.mark.parametrize("kind", ["bool", "int32", "float64", "complex64"])
def test_a_type_of_numbers_that_is_not_supported_is_no_damage(kind, tmp_path):
    from safetensors.numpy import save_file

    folder = whole_folder(tmp_path / "model")
    tensors = weights(configuration("llama") | {"vocab_size": 257})
    tensors["model.norm.weight"] = np.ones(32, kind)
    save_file(tensors, folder / "model.safetensors")
    message = refusal(folder, folder / "model.safetensors")
    assert "damaged" not in message and "not supported" in message


def test_a_chat_template_that_is_not_utf_8_is_refused(tmp_path):
    folder = whole_folder(tmp_path / "model")
    (folder / "chat_template.jinja").write_bytes("{{ messages[0].content }}é".encode("latin-1"))
    refusal(folder, folder / "chat_template.jinja")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_a_folder_in_place_of_the_folder_is_refused_with_the_folder(name, tmp_path):
    folder = whole_folder(tmp_path / "model")
    assert f"give its folder {folder}" in refusal(folder / name, folder / name)


BEGIN = {"id": "<|endoftext|>", "ids": [256], "tokens": ["<|endoftext|>"]}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
PADDING = {
    "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 256,
    "pad_type_id": 0, "pad_token": "<|endoftext|>",
}  # fmt: skip


def template(token, *declared):
    """Return a post-processor that puts a token before each text."""
    name = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing", "single": [name, TEXT], "pair": [TEXT, TEXT],
        "special_tokens": {part["id"]: part for part in declared},
    }  # fmt: skip


@pytest.mark.parametrize(
    "stage",
    [
        {},
        {"padding": PADDING},
        {"padding": PADDING | {"strategy": "BatchLongest", "pad_to_multiple_of": 8}},
        {"padding": PADDING | {"strategy": {"Fixed": 10**11}}},
        {"truncation": {
            "direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0
        }},
    ],
)  # fmt: skip
def test_settings_that_change_the_length_of_a_text_do_not_hide_the_begin_token(stage, tmp_path):
    folder = whole_folder(tmp_path / "model")
    change(folder, "tokenizer.json", post_processor=template(BEGIN["id"], BEGIN), **stage)
    assert minimtp.load(folder).tokenizer.begin_tokens == (256,)


@pytest.mark.parametrize("nested", [False, True])
def test_a_post_processor_that_names_an_undeclared_token_is_refused(nested, tmp_path):
    folder = whole_folder(tmp_path / "model")
    stage = template("<s>")
    if nested:
        stage = {"type": "Sequence", "processors": [stage]}
    change(folder, "tokenizer.json", post_processor=stage)
    assert "names the token <s>, which it does not declare" in refusal(
        folder, folder / "tokenizer.json"
    )


@pytest.mark.parametrize(
    "change_of",
    [
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"post_processor": template(None) | {
            "single": [{"Sequence": {"id": "B", "type_id": 0}}],
            "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
        }},
    ],
    ids=["words of length 0", "a second text in a template for one"],
)  # fmt: skip
def test_a_tokenizer_that_the_library_reads_but_cannot_use_gets_one_sentence(
    change_of, tmp_path, capfd
):
    folder = whole_folder(tmp_path / "model")
    change(folder, "tokenizer.json", **change_of)
    assert "is not a tokenizer that the installed library" in refusal(
        folder, folder / "tokenizer.json"
    )
    assert capfd.readouterr().err == ""  # not even what the library itself would print


def test_a_tokenizer_file_of_an_older_version_does_not_say_its_type(tmp_path):
    folder = whole_folder(tmp_path / "model")
    expected = minimtp.load(folder).tokenizer.encode("def f(x):")
    content = json.loads((folder / "tokenizer.json").read_text())
    del content["model"]["type"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert np.array_equal(minimtp.load(folder).tokenizer.encode("def f(x):"), expected)


def test_an_end_token_that_is_a_character_of_ordinary_text_is_refused(tmp_path):
    folder = whole_folder(tmp_path / "model")
    change(folder, "generation_config.json", eos_token_id=97)
    assert "token 97, which ends a text, is 'a'" in refusal(folder, folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [("mistral", "sliding_window", 4096), ("mistral", "num_key_value_heads", 8),
     ("qwen2", "num_key_value_heads", 32), ("llama", "num_key_value_heads", 4)],
)  # fmt: skip
def test_a_key_that_is_left_out_has_the_default_of_its_family(name, key, expected, tmp_path):
    config = configuration(name) | {"max_position_embeddings": 8192, "num_attention_heads": 4}
    del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_config(tmp_path)
    assert (getattr(found, key) or found.num_attention_heads) == expected


@pytest.mark.parametrize(
    "stage",
    [{"type": "Sequence", "processors": 5}, {"type": "TemplateProcessing", "single": 5},
     template("<s>") | {"special_tokens": 7}, template(["x"]), template(None),
     {"type": "TemplateProcessing", "single": [{"SpecialToken": "x"}], "pair": [],
      "special_tokens": {}}, 7, "x", []],
)  # fmt: skip
def test_a_post_processor_of_another_form_is_refused(stage, tmp_path):
    folder = whole_folder(tmp_path / "model")
    change(folder, "tokenizer.json", post_processor=stage)
    refusal(folder, folder / "tokenizer.json")
