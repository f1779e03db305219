"""Our tokens are those of the original tokenizers, on the test vectors of llama.cpp.

Its source has vocabularies as GGUF files, each with texts (.inp) and the tokens that the original
tokenizer makes of them (.out). Name the folder of the source to run these tests:

    MINIMTP_LLAMA_CPP=llama.cpp pytest -m slow tests/formats/gguf/test_original_tokenizers.py
"""

import os
from pathlib import Path

import pytest

from minimtp.formats.gguf.container import open_gguf
from minimtp.formats.gguf.metadata import read_general
from minimtp.formats.gguf.vocabulary import tokenizer_of, vocabulary_in, vocabulary_of
from minimtp.model.tokenizer import same_tokens
from tests.formats.gguf.helpers import needs_tokenizers

SOURCE = os.environ.get("MINIMTP_LLAMA_CPP")
VOCABULARIES = ["gpt-2", "llama-bpe", "qwen2", "starcoder", "refact", "command-r", "mpt", "qwen35"]
PIECES = ["llama-spm", "phi-3"]
SEPARATOR = "\n__ggml_vocab_test__\n"

pytestmark = [
    pytest.mark.slow,
    needs_tokenizers,
    pytest.mark.skipif(SOURCE is None, reason="MINIMTP_LLAMA_CPP does not name llama.cpp's source"),
]


@pytest.mark.parametrize("name", [*VOCABULARIES, *PIECES])
def test_tokens_equal_those_of_the_original_tokenizer(name):
    path = Path(SOURCE, "models", f"ggml-vocab-{name}.gguf")
    tokenizer = tokenizer_of(vocabulary_in(read_general(open_gguf(path)), path), str(path))
    texts = Path(f"{path}.inp").read_bytes().decode().split(SEPARATOR)
    lines = Path(f"{path}.out").read_text(encoding="utf-8").split("\n")
    assert len(texts) > 40
    for text, line in zip(texts, lines, strict=False):
        expected = [int(token) for token in line.split()]
        if text:
            text = tokenizer.prompt_prefix + text
        assert tokenizer.encode(text).tolist() == expected, repr(text)
        assert tokenizer.decode_bytes(expected) == text.encode()
    assert same_tokens(tokenizer_of(vocabulary_of(tokenizer)), tokenizer)
