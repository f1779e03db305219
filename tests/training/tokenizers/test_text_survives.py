"""With a tokenizer file, text comes back from its tokens unchanged, or is refused in a sentence."""

import importlib.util
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.decode.stopping import Stop
from minimtp.errors import UserError
from minimtp.model.tokenizer import PROBES, same_tokens
from minimtp.training.data.corpus import open_corpus
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from minimtp.training.tokenizers.content import TokenizerSettings
from minimtp.training.tokenizers.file_tokenizer import ORDINARY, FileTokenizer
from minimtp.training.tokenizers.spellings import byte_spellings
from minimtp.training.tokenizers.tokenizer import open_tokenizer, tokenizer_from_dict

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the extra interop (tokenizers)"
)

SPELLINGS = byte_spellings()
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(PROBES),
    st.lists(st.sampled_from([*MARKS, "you ", "the cat", "\0", "\u00e9", "\n\n", " "])).map(
        "".join
    ),
)


def content(missing=(), **changes):
    """Return a small byte-level BPE file as a dictionary, without tokens for some bytes."""
    names = [SPELLINGS[byte] for byte in range(256) if byte not in missing]
    merges = [
        m for m in (["t", "h"], ["th", "e"], ["y", "o"], ["yo", "u"]) if set(m[0]) <= set(names)
    ]
    names += ["".join(merge) for merge in merges]
    vocabulary = {name: token for token, name in enumerate([*names, *MARKS])}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    stage = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "post_processor": None,
        "added_tokens": [
            {"id": vocabulary[mark], "content": mark, "special": True, **flags} for mark in MARKS
        ],
        "pre_tokenizer": stage,
        "decoder": stage,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "dropout": None},
    } | changes


def tokenizer(missing=(), **changes):
    return FileTokenizer(json.dumps(content(missing, **changes)))


def model(**changes):
    return {"model": content()["model"] | changes}


@pytest.fixture(scope="module")
def whole():
    return tokenizer()


@given(text=texts)
def test_any_text_comes_back_from_its_tokens(whole, text):
    tokens = whole.encode(text)
    assert whole.decode(tokens) == text and whole.decode_bytes(tokens) == text.encode()
    assert whole.encode(text).tolist() == tokens.tolist()
    assert whole.byte_counts()[tokens].sum() == len(text.encode())


@given(
    raw=st.one_of(st.binary(), st.lists(st.sampled_from([b"\xff", b"\xc3", b"the"])).map(b"".join))
)
def test_any_bytes_come_back_from_their_tokens_also_as_python_stores_them_in_text(whole, raw):
    assert whole.decode_bytes(whole.encode(raw)) == raw
    assert (
        whole.encode(raw.decode("utf-8", "surrogateescape")).tolist() == whole.encode(raw).tolist()
    )


@pytest.mark.parametrize("kind", [FileTokenizer, ByteTokenizer])
def test_half_of_a_surrogate_pair_is_no_text(whole, kind):
    with pytest.raises(UserError, match=r"half of a surrogate pair \(U\+D83D at character 2\)"):
        (whole if kind is FileTokenizer else ByteTokenizer()).encode("ab\ud83d")


@pytest.mark.parametrize("byte", sorted(ORDINARY)[::7])
def test_a_file_without_a_byte_of_ordinary_text_is_refused(byte):
    with pytest.raises(UserError, match="has no token for .*, so it would lose text"):
        tokenizer({byte})


@settings(max_examples=40)
@given(
    missing=st.sets(st.sampled_from(sorted(set(range(256)) - ORDINARY)), max_size=20),
    raw=st.binary(max_size=12),
)
def test_a_file_without_unusual_bytes_refuses_the_texts_that_need_them(missing, raw):
    some = tokenizer(missing)
    if missing & set(raw):
        with pytest.raises(UserError, match="the text contains the byte 0x.., for which"):
            some.encode(raw)
    else:
        assert some.decode_bytes(some.encode(raw)) == raw


SWITCHED_OFF = {
    "dropout": (model(dropout=0.5), "BPE dropout 0.5"),
    "truncation": (
        {"truncation": {
            "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
        }},
        "truncation",
    ),
    "padding": (
        {"padding": {
            "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
        }},
        "padding",
    ),
    "NFC": ({"normalizer": {"type": "NFC"}}, "the normalizer NFC"),
    "NFKC in a sequence": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}}, "NFKC",
    ),
    "prefix space": (
        {"pre_tokenizer": content()["pre_tokenizer"] | {"add_prefix_space": True}},
        "add_prefix_space",
    ),
    "spaces beside added tokens": (
        {"added_tokens": [
            {"id": 300, "content": "the", "special": False, "single_word": False, "lstrip": True,
             "rstrip": True, "normalized": False}, *content()["added_tokens"],
        ]},
        "absorb the spaces",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_a_setting_that_changes_the_text_is_switched_off_and_said(tmp_path, capsys, name):
    changes, words = SWITCHED_OFF[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content(**changes)))
    changed = open_tokenizer(path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said and str(path) in said
    again = tokenizer_from_dict(json.loads(json.dumps(changed.to_dict())))
    assert again.notes == ()  # what is stored has no such setting any more
    for text in [*PROBES, "the the   the", "e\u0301 \ufb01"]:
        for _ in range(3):
            assert changed.decode(changed.encode(text)) == text
            assert again.encode(text).tolist() == changed.encode(text).tolist()


REFUSED = {
    "Lowercase": {"normalizer": {"type": "Lowercase"}},
    "Strip": {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
    "Replace": {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}},
    "Prepend": {
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Prepend", "prepend": "_"},
        ]}
    },
    "Whitespace": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Whitespace"}, content()["pre_tokenizer"],
        ]}
    },
    "a pattern that removes": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Removed", "invert": False},
            content()["pre_tokenizer"],
        ]}
    },
    "no pre-tokenizer": {"pre_tokenizer": None},
    "a prefix of subwords": model(continuing_subword_prefix="##"),
    "byte fallback": model(byte_fallback=True),
    "WordLevel": {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
    "two tokens with one id": model(vocab=content()["model"]["vocab"] | {"xyz": 0}),
    "an id beyond all reason": model(vocab=content()["model"]["vocab"] | {"xyz": 2**24 - 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_changes_the_text_otherwise_is_refused(tmp_path, name):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content(**REFUSED[name])))
    with pytest.raises(UserError) as refusal:
        open_tokenizer(path)
    message = str(refusal.value)
    assert str(path) in message and len(message.replace(str(path), "")) <= 300, message


def test_names_of_special_tokens_in_a_text_are_text_unless_a_template_wrote_them(whole):
    text = "<|im_start|>the<|im_end|>"
    start, end = (whole.special_tokens[mark] for mark in MARKS[1:])
    assert not {start, end} & set(whole.encode(text).tolist())
    tokens = whole.encode(text, special=True).tolist()
    assert (tokens[0], tokens[-1], len(tokens)) == (start, end, 3)
    assert whole.decode_bytes(tokens) == b"the" and whole.spell(tokens) == text.encode()


def test_a_stop_string_can_be_the_name_of_a_special_token_and_they_do_not_hide_others(whole):
    y, o, u = (whole.encode(letter).tolist()[0] for letter in "you")
    mark = whole.special_tokens["<|im_end|>"]
    assert Stop((), ["<|im_end|>"], whole.decode_bytes, whole.spell).find([y, mark, o]) == 2
    assert Stop((), ["y<|im_end|>o"], whole.decode_bytes, whole.spell).find([y, mark, o]) == 3
    stop = Stop((), ["you"], whole.decode_bytes, whole.spell)
    for token in [y, *[mark] * 5000, o, *[mark] * 5000]:
        assert stop.extend([token]) is None
    assert stop.extend([u]) == 1


def test_tokenizers_are_compared_by_what_they_do(whole):
    with_flags = content()["added_tokens"]
    with_flags[0]["single_word"] = True
    assert same_tokens(whole, tokenizer(added_tokens=with_flags, post_processor=None))
    assert same_tokens(whole, tokenizer(**SWITCHED_OFF["dropout"][0]))
    vocabulary = dict(content()["model"]["vocab"])
    vocabulary["the"], vocabulary["you"] = vocabulary["you"], vocabulary["the"]
    assert not same_tokens(whole, tokenizer(**model(vocab=vocabulary)))
    assert not same_tokens(whole, tokenizer(**model(merges=content()["model"]["merges"][:3])))
    assert not same_tokens(whole, ByteTokenizer())
    assert same_tokens(ByteTokenizer(), tokenizer_from_dict({"kind": "bytes"}))
    digits = {"type": "Digits", "individual_digits": False}
    stages = {"type": "Sequence", "pretokenizers": [digits, content()["pre_tokenizer"]]}
    assert same_tokens(whole, tokenizer(pre_tokenizer=stages))  # this vocabulary joins no digits


def test_settings_of_a_model_are_stored_with_its_tokenizer():
    settings = TokenizerSettings(0, (1, 2), (3,), "{{ messages }}", 300)
    first = FileTokenizer(json.dumps(content()), settings)
    again = tokenizer_from_dict(json.loads(json.dumps(first.to_dict())))
    for one in (first, again):
        assert (one.end_token, one.end_tokens, one.begin_tokens) == (0, (0, 1, 2), (3,))
        assert (one.chat_template, one.vocabulary_size) == ("{{ messages }}", 300)
    with pytest.raises(UserError, match="999 is not one of its 2.. tokens"):
        FileTokenizer(json.dumps(content()), TokenizerSettings(begin_tokens=(999,)))


def test_a_text_that_a_tokenizer_cannot_express_is_refused_with_the_name_of_its_file(tmp_path):
    for name, text in (("good.txt", "fine " * 50), ("odd.txt", "what is \U000f0000 doing?")):
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"odd\.txt: the text contains the byte 0xf3, for which"):
        open_corpus([tmp_path], tokenizer({0xF3}))
