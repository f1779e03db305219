"""Tokenizers are stored as vocabularies of llama.cpp and restored from them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.errors import UserError
from minimtp.formats.gguf.vocabulary import tokenizer_of, vocabulary_of
from minimtp.training.data.byte_tokenizer import ByteTokenizer
from minimtp.training.data.file_tokenizer import FileTokenizer
from tests.formats.gguf.helpers import BYTES, needs_tokenizers, unusual_texts


def test_each_byte_is_a_token_with_its_gpt_2_spelling_and_nothing_is_merged():
    vocabulary = vocabulary_of(BYTES)
    assert (
        len(set(vocabulary.tokens)) == BYTES.vocabulary_size
        and vocabulary.tokens[BYTES.end_token] == "<|endoftext|>"
    )
    assert (
        vocabulary.tokens[ord("A")] == "A"
        and vocabulary.tokens[ord(" ")] == "\u0120"
        and vocabulary.tokens[10] == "\u010a"
    )
    assert vocabulary.types == [1] * 256 + [
        3
    ]  # llama.cpp's type "normal", and "control" for the end token
    left, right = vocabulary.merges[0].split(" ")
    assert len(vocabulary.merges) == 1 and {left, right} == {
        "<|endoftext|>"
    }  # no text contains such a token
    assert isinstance(tokenizer_of(vocabulary), ByteTokenizer)


@needs_tokenizers
@given(text=unusual_texts)
def test_the_byte_vocabulary_gives_bytes_in_the_tokenizers_library_for_any_text(text):
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = {name: token for token, name in enumerate(vocabulary_of(BYTES).tokens)}
    other = Tokenizer(models.BPE(names, []))
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert other.encode(text).ids == BYTES.encode(text).tolist()


@needs_tokenizers
@given(
    text=st.one_of(
        unusual_texts, st.text("the cats on1'm<|>\n"), st.just("<tab>the cat<|endoftext|>sat")
    )
)
def test_a_tokenizer_file_is_restored_from_its_vocabulary_and_merges(bpe, text):
    tokenizer = FileTokenizer(json.dumps(bpe))
    vocabulary = vocabulary_of(tokenizer)
    again = tokenizer_of(vocabulary)
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert (again.vocabulary_size, again.end_token) == (
        tokenizer.vocabulary_size,
        tokenizer.end_token,
    )
    assert vocabulary_of(again) == vocabulary


@needs_tokenizers
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(normalizer={"type": "NFC"}),
        lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
        lambda content: content["pre_tokenizer"].update(use_regex=False),
        lambda content: content.update(pre_tokenizer={"type": "Whitespace"}),
        lambda content: content.update(pre_tokenizer=None),
        lambda content: content["model"].update(ignore_merges=True),
        lambda content: content["added_tokens"][-1].update(lstrip=True),
    ],
)  # fmt: skip
def test_a_tokenizer_that_llama_cpp_would_apply_differently_is_refused(bpe, change):
    content = json.loads(json.dumps(bpe))
    change(content)
    with pytest.raises(UserError, match="which a GGUF file cannot express"):
        vocabulary_of(FileTokenizer(json.dumps(content)))
