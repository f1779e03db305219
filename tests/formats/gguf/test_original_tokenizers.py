"""Our tokens are those of the original tokenizers, on the test vectors of llama.cpp.

Its source has vocabularies as GGUF files, each with texts (.inp) and the tokens that the original
tokenizer makes of them (.out). Name the folder of the source to run these tests:

    MINIMTP_LLAMA_CPP=llama.cpp pytest -m slow tests/formats/gguf/test_original_tokenizers.py
"""

import json
import os
import random
from pathlib import Path

import pytest

from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.process import LlamaProcess
from minimtp.formats.gguf.container import open_gguf
from minimtp.formats.gguf.metadata import read_general
from minimtp.formats.gguf.vocabulary import content_of, tokenizer_of, vocabulary_in, vocabulary_of
from minimtp.formats.gguf.writer import write_gguf
from minimtp.model.tokenizer import prompt_tokens, same_tokens
from minimtp.training.build import build_model
from minimtp.training.data.texts import standard_library
from minimtp.training.presets import preset
from minimtp.training.tokenizers import file_tokenizer
from minimtp.training.tokenizers.spellings import SPACE
from tests.formats.gguf.helpers import needs_gguf, needs_llama, needs_tokenizers

SOURCE = os.environ.get("MINIMTP_LLAMA_CPP")
VOCABULARIES = ["gpt-2", "llama-bpe", "qwen2", "starcoder", "refact", "command-r", "mpt", "qwen35"]
PIECES = ["llama-spm", "phi-3"]
RANDOM_TEXTS = 1500  # of each vocabulary
# Combining marks, digits of other scripts, spaces of every kind, invisible characters, capitals of
# contractions, letters without case, and characters beyond 16 bits.
UNUSUAL = [*"a1 '\n\t\r\u0b95\u0bcd\u0301\u0e33\u0967\u00b2\u00bd\u2167\u00a0\u1680\u2009\u2028"]
UNUSUAL += [*"\u3000\u0085\u200b\u200d\ufeff\u01c5\u02b0\u00aa\u4e2d\u0130\u1e9e\u20e3\u0660\0\x7f"]
UNUSUAL += ["\U0001d7d8", "\U0001f468", "'S", "'ll", "'VE", " 12", "  ", "\n\n", "_", "/", "\u00e9"]
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


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "llama-spm"])
def test_random_texts_have_the_tokens_of_the_library_and_come_back(monkeypatch, name):
    """Also if the text is cut into pieces of some hundred characters."""
    import tokenizers

    monkeypatch.setattr(file_tokenizer, "PIECE", 100)
    path = Path(SOURCE, "models", f"ggml-vocab-{name}.gguf")
    vocabulary = vocabulary_in(read_general(open_gguf(path)), path)
    ours = tokenizer_of(vocabulary, str(path))
    library = tokenizers.Tokenizer.from_str(json.dumps(content_of(vocabulary)))
    library.encode_special_tokens = True
    rng, documents = random.Random(name), [content for _, content in standard_library()]
    for _ in range(RANDOM_TEXTS):
        # The library turns this character into a space, and so changes the text.
        text = random_text(rng, documents).replace(SPACE, "x")
        tokens = ours.encode(ours.prompt_prefix + text).tolist()
        assert tokens == library.encode(text, add_special_tokens=False).ids, repr(text)
        assert ours.decode(tokens) == ours.prompt_prefix + text


@needs_gguf
@needs_llama
@pytest.mark.parametrize("name", [*VOCABULARIES, *PIECES])
def test_llama_cpp_makes_our_tokens_from_the_file_that_we_write(name, tmp_path):
    """With the begin token, and with the characters that tokenizers most often disagree on."""
    path = Path(SOURCE, "models", f"ggml-vocab-{name}.gguf")
    tokenizer = tokenizer_of(vocabulary_in(read_general(open_gguf(path)), path), str(path))
    sizes = {"num_layers": 1, "hidden_size": 32, "num_heads": 1, "intermediate_size": 32}
    recipe = preset("tiny", vocabulary_size=tokenizer.vocabulary_size, **sizes)
    model = build_model(recipe, np.random.default_rng(0))
    write_gguf(tmp_path / "model.gguf", model, tokenizer, name)
    rng, documents = random.Random(name), [content for _, content in standard_library()]
    texts = [random_text(rng, documents) for _ in range(200)]
    texts += ["".join(rng.choice(UNUSUAL) for _ in range(30)) for _ in range(200)]
    texts += [*tokenizer.special_tokens][:20]
    with LlamaProcess(tmp_path / "model.gguf", context=8) as llama:
        for text in texts:
            expected = prompt_tokens(tokenizer, text).tolist()
            assert llama.tokenize(text) == expected, repr(text)


def random_text(rng, documents):
    """Return random characters, a piece of source code, or words and white space in any order."""
    kind = rng.randrange(3)
    if kind == 0:
        ranges = (range(32, 127), range(0x2000), range(0xD800), range(0x1F300, 0x1FB00))
        return "".join(chr(rng.choice(rng.choice(ranges))) for _ in range(rng.randrange(1, 60)))
    if kind == 1:
        document = rng.choice(documents)
        start = rng.randrange(max(1, len(document) - 600))
        return document[start : start + 600].decode("utf-8", "ignore") or "x"
    words = (" ", "  ", "\n", "\t", "\r\n", "a", "The", "'s", "12", "3", "\u00e9", "\u732b", "!")
    return "".join(rng.choice(words) for _ in range(rng.randrange(1, 40)))
