"""Text survives a tokenizer of pieces with byte fallback, as in Llama 2, also in a GGUF file."""

import importlib.util
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.formats.gguf.pieces import PRE, merges_from
from minimtp.formats.gguf.pre_tokenizers import FAMILIES, as_stage
from minimtp.formats.gguf.reader import load_gguf
from minimtp.formats.gguf.vocabulary import Vocabulary, content_of
from minimtp.formats.gguf.writer import write_gguf
from minimtp.model.tokenizer import prompt_tokens, same_tokens
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.tokenizers import file_tokenizer
from minimtp.training.tokenizers.content import TokenizerSettings
from minimtp.training.tokenizers.file_tokenizer import FileTokenizer
from minimtp.training.tokenizers.tokenizer import tokenizer_from_dict
from tests.training.tokenizers.test_text_survives import content, texts

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the extra interop (tokenizers)"
)

PIECES = [
    "\u2581",
    "t",
    "h",
    "e",
    "c",
    "a",
    "\u2581t",
    "he",
    "\u2581the",
    "\u2581c",
    "at",
    "\u2581cat",
    "\n",
]


def pieces_content():
    """A vocabulary of pieces with byte fallback, as in Llama 2, as a dictionary."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    types = [2, 3, 3, *[6] * 256, *[1] * len(PIECES)]
    scores = [0.0] * 259 + [float(-rank) for rank in range(len(PIECES))]
    merges = merges_from(names, types, scores)
    return content_of(Vocabulary(names, types, merges, 2, PRE, begin=1, space_prefix=True))


@pytest.fixture(scope="module")
def pieces():
    return pieces_content()


@pytest.fixture(scope="module")
def spelt(pieces):
    return FileTokenizer(json.dumps(pieces), TokenizerSettings(begin_tokens=(1,)))


@pytest.fixture(scope="module")
def original(pieces):
    import tokenizers

    return tokenizers.Tokenizer.from_str(json.dumps(pieces))


@given(text=st.one_of(texts, st.text("the cat\u2581\n \u00e9<0x4>/s")), raw=st.binary(max_size=8))
def test_any_text_comes_back_from_pieces_with_byte_fallback(spelt, text, raw):
    some = spelt
    assert some.decode(some.encode(text)) == text
    assert some.decode_bytes(some.encode(raw)) == raw
    assert not set(some.special_tokens.values()) & set(some.encode(text).tolist())


@given(text=st.text("the cat\n \u00e9\u732b"))
def test_a_prompt_of_pieces_has_the_tokens_of_the_original_tokenizer(spelt, original, text):
    if text:
        expected = original.encode(text, add_special_tokens=False).ids
        assert prompt_tokens(spelt, text).tolist() == [1, *expected]
    assert prompt_tokens(spelt, text.encode()).tolist() == prompt_tokens(spelt, text).tolist()


def test_a_vocabulary_of_pieces_is_restored_with_the_prefix_of_its_prompts(spelt):
    again = tokenizer_from_dict(json.loads(json.dumps(spelt.to_dict())))
    assert same_tokens(again, spelt) and again.prompt_prefix == " "


def test_pieces_are_written_to_a_gguf_file_and_read_again(pieces, tmp_path):
    pytest.importorskip("gguf")
    settings = TokenizerSettings(end_token=2, begin_tokens=(1,))
    some = FileTokenizer(json.dumps(pieces), settings)
    recipe = preset("tiny", vocabulary_size=some.vocabulary_size)
    write_gguf(tmp_path / "pieces.gguf", build_model(recipe, np.random.default_rng(0)), some, "x")
    again = load_gguf(tmp_path / "pieces.gguf").tokenizer
    assert same_tokens(again, some)
    assert (again.prompt_prefix, again.begin_tokens, again.end_tokens) == (" ", (1,), (2,))


LINES = st.lists(
    st.sampled_from(
        [
            "the cat",
            "I'm 123",
            "\n",
            "\n\n",
            " \n",
            "\r\n",
            "\t",
            " ",
            "A",
            "\u00e9",
            "!",
            "'s",
            "7",
            "\u4e2d",
        ]
    )
).map("".join)


@pytest.mark.parametrize("family", [*FAMILIES, None], ids=lambda names: names and names[0])
def test_a_long_text_in_pieces_has_the_tokens_of_the_whole_text(monkeypatch, pieces, family):
    """Merges of line ends and spaces with what stands beside them would show a wrong cut."""
    file = pieces if family is None else content(pre_tokenizer=as_stage(FAMILIES[family]))
    if family is not None:
        joined = [
            "\u010a\u010a",
            "\u0120\u010a",
            "\u010d\u010a",
            "\u0120\u0120",
            "\u0120t",
            "!\u010a",
        ]
        vocabulary = file["model"]["vocab"]
        for name in joined:
            vocabulary[name] = len(vocabulary)
            file["model"]["merges"] = [*file["model"]["merges"], list(name)]
        file["model"]["ignore_merges"] = FAMILIES[family].whole_words
    whole = FileTokenizer(json.dumps(file))

    @given(text=LINES)
    def check(text):
        monkeypatch.setattr(file_tokenizer, "PIECE", 10**9)
        expected = whole.encode(text).tolist()
        monkeypatch.setattr(file_tokenizer, "PIECE", 2)
        assert whole.encode(text).tolist() == expected

    check()
    monkeypatch.setattr(file_tokenizer, "PIECE", 2)
    assert list(whole._cut("1,2\n3,4\n5")) == ["1,2\n", "3,4\n", "5"]
    assert list(whole._cut("the cat sat")) == ["the", " cat", " sat"]
