"""Tokenizers are stored as vocabularies of llama.cpp and restored from them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.errors import UserError
from minimtp.formats.gguf.pre_tokenizers import FAMILIES, as_stage
from minimtp.formats.gguf.vocabulary import tokenizer_of, vocabulary_of
from minimtp.model.tokenizer import same_tokens
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from minimtp.training.tokenizers.content import TokenizerSettings
from minimtp.training.tokenizers.file_tokenizer import FileTokenizer
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
        lambda content: content["pre_tokenizer"].update(use_regex=False),
        lambda content: content["model"].update(ignore_merges=True),
        lambda content: content.update(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Punctuation", "behavior": "Isolated"}, content["pre_tokenizer"],
                ],
            }
        ),
    ],
)  # fmt: skip
def test_a_tokenizer_that_llama_cpp_would_apply_differently_is_refused(bpe, change):
    content = json.loads(json.dumps(bpe))
    change(content)
    with pytest.raises(UserError, match="that a GGUF file cannot express"):
        vocabulary_of(FileTokenizer(json.dumps(content)))


@needs_tokenizers
@pytest.mark.parametrize("family", FAMILIES, ids=lambda names: names[0])
def test_every_family_of_words_has_a_name_in_both_directions(bpe, family):
    found = FAMILIES[family]
    content = json.loads(json.dumps(bpe)) | {"pre_tokenizer": as_stage(found)}
    content["model"]["ignore_merges"] = found.whole_words
    tokenizer = FileTokenizer(json.dumps(content))
    vocabulary = vocabulary_of(tokenizer)
    assert vocabulary.pre == family[0]
    assert same_tokens(tokenizer_of(vocabulary), tokenizer)


@needs_tokenizers
def test_begin_and_end_tokens_and_the_chat_template_survive_a_vocabulary(bpe):
    settings = TokenizerSettings(
        end_token=0, end_tokens=(280,), begin_tokens=(281,), chat_template="{{ messages }}"
    )
    tokenizer = FileTokenizer(json.dumps(bpe), settings)
    again = tokenizer_of(vocabulary_of(tokenizer))
    assert again.end_tokens == (0, 280) and again.begin_tokens == (281,)
    assert again.chat_template == "{{ messages }}" and same_tokens(again, tokenizer)
