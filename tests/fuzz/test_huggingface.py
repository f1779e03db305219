"""Mutants of the files of a Hugging Face folder: loaded with weights and a text, or refused."""

import json
import random

import pytest

import minimtp
from tests.formats.huggingface.test_folder import TEXT, logits, whole_folder
from tests.fuzz.mutate import damaged_bytes, damaged_json, json_bytes, must_be_refused_or_right

pytestmark = pytest.mark.slow

COUNT = 250
FILES = (
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json",
    "model.safetensors.index.json", "model.safetensors",
)  # fmt: skip


def is_right(loaded):
    tokens = loaded.tokenizer.encode(TEXT)
    return loaded.tokenizer.decode(tokens) == TEXT and len(logits(loaded)) == len(tokens)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_folder_is_refused_with_its_name_or_the_model_is_usable(name, tmp_path):
    folder, rng = whole_folder(tmp_path / "model"), random.Random(FILES.index(name))
    path = folder / name
    if name == "model.safetensors.index.json":
        from safetensors import safe_open

        with safe_open(folder / "model.safetensors", "np") as file:
            content = {"weight_map": dict.fromkeys(file.keys(), "model.safetensors")}
        path.write_text(json.dumps(content))
    good = path.read_bytes()
    value = None if name == "model.safetensors" else json.loads(good)
    refused = 0
    for number in range(COUNT):
        as_value = value is not None and number % 2
        mutant = json_bytes(damaged_json(value, rng)) if as_value else damaged_bytes(good, rng)
        path.write_bytes(mutant)
        refused += must_be_refused_or_right(
            lambda: minimtp.load(folder), is_right, names=folder, megabytes=100
        )
    assert COUNT / 10 < refused
