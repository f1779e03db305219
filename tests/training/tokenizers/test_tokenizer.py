"""Tokens decode to the bytes of the text, with bytes as tokens and with a tokenizer file."""

import importlib.util
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.errors import UserError
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from minimtp.training.tokenizers.file_tokenizer import FileTokenizer
from minimtp.training.tokenizers.tokenizer import open_tokenizer, tokenizer_from_dict


@given(st.binary())
def test_decoding_the_tokens_of_any_bytes_returns_the_bytes(raw):
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(raw)
    assert tokenizer.decode_bytes([*tokens, tokenizer.end_token]) == raw
    assert tokenizer.byte_counts()[tokens].sum() == len(raw)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_the_tokens_of_any_text_returns_the_text(text):
    tokenizer = tokenizer_from_dict(json.loads(json.dumps(ByteTokenizer().to_dict())))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_or_invalid_tokenizer_is_a_user_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for attempt in (
        lambda: tokenizer_from_dict({"kind": "runes"}),
        lambda: open_tokenizer(tmp_path / "missing.json"),
        lambda: open_tokenizer(tmp_path / "tokenizer.json"),
    ):
        with pytest.raises(UserError):
            attempt()


needs_tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the extra interop (tokenizers)"
)


ADDED = ["    ", "ca t\u00e9", "\u732b"]


@pytest.fixture(scope="module")
def trained():
    """Return a byte-level BPE tokenizer of the library with added tokens.

    Some are text, such as the runs of spaces in GPT-NeoX. Others are special tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    trained.train_from_iterator(["the cat sat on the mat"] * 10, trainer)
    trained.add_tokens([AddedToken(text, normalized=False) for text in ADDED])
    trained.add_special_tokens(["<|padding|>"])
    return trained


@needs_tokenizers
@given(
    text=st.one_of(
        st.text(), st.lists(st.sampled_from([*ADDED, "the cat", " ", "\u00e9"])).map("".join)
    ),
    cut=st.integers(0, 40),
)
def test_the_tokens_of_a_tokenizer_file_have_the_bytes_of_the_text_in_pieces_of_any_length(
    trained, text, cut
):
    tokenizer = FileTokenizer(trained.to_str())
    tokens = tokenizer.encode(text)
    assert (
        tokenizer.decode_bytes(tokens[:cut]) + tokenizer.decode_bytes(tokens[cut:]) == text.encode()
    )
    assert tokenizer.decode(tokens) == text
    assert tokenizer.byte_counts()[tokens].tolist() == [
        len(tokenizer.decode_bytes([token])) for token in tokens
    ]


@needs_tokenizers
def test_special_tokens_of_a_tokenizer_file_have_no_bytes_and_its_other_added_tokens_do(trained):
    tokenizer = FileTokenizer(trained.to_str())
    tokens = tokenizer.encode("the<|padding|>    <|endoftext|>", special=True)
    assert len(tokens) == 4
    assert tokenizer.decode_bytes(tokens) == b"the    " and tokenizer.decode(tokens) == "the    "
    assert tokenizer.byte_counts()[tokens].tolist() == [3, 0, 4, 0]


@needs_tokenizers
@pytest.mark.parametrize("kind", ["WordPiece", "Metaspace", None])
def test_a_tokenizer_file_that_is_not_byte_level_is_refused(trained, kind):
    from tokenizers import decoders

    content = json.loads(trained.to_str())
    content["decoder"] = kind and json.loads(getattr(decoders, kind)().__getstate__())
    with pytest.raises(UserError, match="not byte-level.*give a byte-level BPE"):
        FileTokenizer(json.dumps(content))
    content["decoder"] = {
        "type": "Sequence",
        "decoders": [json.loads(decoders.ByteLevel().__getstate__())],
    }
    tokenizer = FileTokenizer(json.dumps(content))
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"


@needs_tokenizers
def test_a_tokenizer_file_can_be_opened_and_stored_as_a_dictionary(trained, tmp_path):
    trained.save(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json")
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    text = "the cät sat"
    tokens = again.encode(text)
    assert len(tokens) < len(text.encode())
    assert tokenizer.decode([*tokens, tokenizer.end_token]) == text
    assert tokenizer.byte_counts()[tokens].sum() == len(text.encode())
    assert tokenizer.vocabulary_size == trained.get_vocab_size()
