"""A whole Hugging Face folder in and out: tokenizer, end tokens, chat template, weights."""

import importlib.util
import json
from dataclasses import replace

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.formats.huggingface.writer import as_file_tokenizer
from minimtp.kernels.plain.bfloat16 import from_bfloat16_bits, to_bfloat16_bits
from minimtp.model.tokenizer import same_tokens
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.formats.huggingface.folders import CONFIGURATIONS, configuration, weights, write_folder

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
TEXT = "def f(x):\n    return x + 42  # Zoë 猫\n"
TEMPLATE = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
VOCABULARY = ByteTokenizer.vocabulary_size


def whole_folder(folder, name="llama", **changes):
    """Write a folder with weights and the byte-level tokenizer. Return its path."""
    config = configuration(name) | {"vocab_size": VOCABULARY} | changes
    write_folder(folder, config, weights(config))
    content = as_file_tokenizer().to_dict()["file"]
    (folder / "tokenizer.json").write_text(content)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [256, 5]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


def logits(loaded):
    model = loaded.model
    return model.logits(model.hidden(loaded.tokenizer.encode(TEXT)[None])).data[0]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_folder_survives_being_loaded_and_written_again(name, tmp_path):
    first = minimtp.load(whole_folder(tmp_path / "first", name))
    minimtp.export(first, tmp_path / "second")
    second = minimtp.load(tmp_path / "second")
    assert logits(second).tobytes() == logits(first).tobytes()
    assert second.config == first.config
    assert same_tokens(first.tokenizer, second.tokenizer)
    for loaded in (first, second):
        assert loaded.tokenizer.end_tokens == (256, 5)
        assert loaded.tokenizer.chat_template == TEMPLATE


@needs_transformers
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantized", [False, True])
def test_transformers_loads_what_was_written_and_computes_the_same(dtype, quantized, tmp_path):
    import torch
    import transformers

    loaded = minimtp.load(whole_folder(tmp_path / "in"))
    model = loaded.model
    if quantized:
        model = round_to_nearest(model, QuantizationSpec(weights="q8_0", activations="none"))
    minimtp.export(replace(loaded, model=model), tmp_path / "out", dtype)
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, attn_implementation="eager"
    )
    tokens = loaded.tokenizer.encode(TEXT)
    with torch.no_grad():
        expected = peer(torch.tensor(tokens)[None]).logits[0].numpy()
    found = model.logits(model.hidden(tokens[None])).data[0]
    # bfloat16 keeps 8 bits of each weight, so 2^-9 of the logits' size is lost several times.
    atol = 1e-4 if dtype == "float32" else 0.02 * np.abs(found).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    peer_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert peer_tokenizer(TEXT)["input_ids"] == tokens.tolist()
    assert peer_tokenizer.chat_template == TEMPLATE
    assert peer.generation_config.eos_token_id == [256, 5]


def test_bfloat16_is_the_nearest_one_and_ties_go_to_the_even_one():
    exact = np.float32([1.0, -2.5, 0.0])
    assert np.array_equal(from_bfloat16_bits(to_bfloat16_bits(exact)), exact)
    step = 2.0**-7  # between the bfloat16 from 1 to 2
    values = np.float32([1 + 0.5 * step, 1 + 1.5 * step, 1 + 0.51 * step, 1 + 0.49 * step])
    found = from_bfloat16_bits(to_bfloat16_bits(values))
    np.testing.assert_array_equal(found, np.float32([1, 1 + 2 * step, 1 + step, 1]))


def test_tokens_that_the_tokenizer_adds_before_a_text_are_begin_tokens(tmp_path):
    folder = whole_folder(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    end = content["added_tokens"][0]["content"]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": end, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {end: {"id": end, "ids": [256], "tokens": [end]}},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    loaded = minimtp.load(folder)
    assert loaded.tokenizer.begin_tokens == (256,)
    minimtp.export(loaded, tmp_path / "out")
    assert minimtp.load(tmp_path / "out").tokenizer.begin_tokens == (256,)


def test_rows_without_tokens_are_accepted_and_tokens_without_rows_are_not(tmp_path):
    padded = minimtp.load(whole_folder(tmp_path / "padded", vocab_size=VOCABULARY + 7))
    assert padded.tokenizer.vocabulary_size == padded.config.vocabulary_size == VOCABULARY + 7
    with pytest.raises(UserError, match=str(VOCABULARY - 1)):
        minimtp.load(whole_folder(tmp_path / "short", vocab_size=VOCABULARY - 1))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text"])
def test_a_missing_or_damaged_file_gets_one_sentence_that_names_it(file, damage, tmp_path):
    path = whole_folder(tmp_path) / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "text": b"abc"}[damage]
        )
    with pytest.raises(UserError, match=file) as failure:
        minimtp.load(tmp_path)
    assert len(str(failure.value).replace(str(tmp_path), "FOLDER")) <= 300


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    config = configuration("llama") | {"vocab_size": VOCABULARY}
    tensors = weights(config)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    whole_folder(tmp_path)
    write_folder(tmp_path, config, tensors)
    with pytest.raises(UserError, match="NaN or infinite"):
        minimtp.load(tmp_path)


def test_a_model_that_is_too_large_for_the_memory_is_refused_before_it_is_allocated(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("minimtp.machine.available_memory", lambda: 10_000)
    with pytest.raises(UserError, match="GiB of memory"):
        minimtp.load(whole_folder(tmp_path))


def test_a_run_starts_from_a_folder_and_learns_from_its_loaded_teacher(tmp_path):
    loaded = minimtp.load(whole_folder(tmp_path / "model", "qwen3"))
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 200)
    recipe = replace(
        loaded.recipe, sequence_length=16, batch_size=2, tokens=128, learning_rate=1e-9,
        distill_weight=0.5, quantization="qat", activations="none", evaluation_tokens=0,
    )  # fmt: skip
    start = minimtp.Start(start_from=loaded, teacher=loaded)
    result = minimtp.train(recipe, [text], tmp_path / "run", start, report=lambda line: None)
    assert result.step == recipe.steps == 4
    run = minimtp.load(tmp_path / "run")
    assert run.config == loaded.config  # the context length stays that of the model
    assert same_tokens(run.tokenizer, loaded.tokenizer)
    trained = dict(run.model.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        np.testing.assert_allclose(trained[name].data, parameter.data, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="no schedule to continue"):
        start = minimtp.Start(start_from=loaded, continue_schedule=True)
        minimtp.train(recipe, [text], tmp_path / "other", start)


def test_blocks_are_refused_as_a_start_with_a_sentence_that_says_why(tmp_path):
    loaded = minimtp.load(whole_folder(tmp_path / "model"))
    packed = replace(loaded, packed=QuantizationSpec(weights="q4_0", activations="none"))
    with pytest.raises(UserError, match="quantized model"):
        minimtp.train(replace(loaded.recipe, tokens=64, sequence_length=8), ["stdlib"],
                      tmp_path / "run", minimtp.Start(start_from=packed))  # fmt: skip
