"""The same text gives the same tokens, whichever encoding and line ends its file has."""

import codecs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minimtp.errors import UserError
from minimtp.training.data.encoding import (
    MARKS,
    SIGNATURES,
    NotText,
    checked_encoding,
    decode,
    decode_document,
    normalized,
)

SENTENCES = {  # in encodings that people have files in
    "Съешь ещё этих мягких французских булок,\r\nда выпей чаю.\r\n": (
        "cp1251 koi8-r cp866 iso-8859-5 mac-cyrillic"
    ),
    "天地玄黄，宇宙洪荒。\r\n日月盈昃，辰宿列张。\n": "gbk gb2312 gb18030 hz",
    "天地玄黃，宇宙洪荒。\r\n": "big5 cp950",
    "いろはにほへと、ちりぬるを。\r\nわかよたれそ\r\n": "shift_jis cp932 euc-jp iso-2022-jp",
    "다람쥐 헌 쳇바퀴에 타고파\r\n": "euc-kr cp949 johab",
    "Dès l'aube, à l'heure où blanchit la campagne\r\n": "latin-1 cp1252 cp850 mac-roman cp037",
    "Γαζέες καὶ μυρτιὲς".replace("ὶ", "ί").replace("ὲ", "έ") + "\r\n": "cp1253 iso-8859-7",
    "דג סקרן שט בים מאוכזב\r\n": "cp1255 iso-8859-8",
    "Pijamalı hasta yağız şoföre çabucak güvendi\r\n": "cp1254 iso-8859-9",
}
WIDE = "utf-16-le utf-16-be utf-32-le utf-32-be utf-16 utf-32 utf-7 utf-8".split()
CASES = [(text, name) for text, names in SENTENCES.items() for name in names.split()]
CASES += [(text, name) for text in SENTENCES for name in WIDE]
ALL = sorted({name for _, name in CASES})
LINE_ENDS = ("\n", "\r\n", "\r")

texts = st.text(
    st.one_of(
        st.sampled_from("aя中あé\ufeff\u2028\u0085\f\t \r\n"),
        st.characters(exclude_categories=["Cc", "Cs", "Cn", "Co"]),
    ),
    max_size=60,
)


@pytest.mark.parametrize(("text", "name"), CASES, ids=lambda value: value.strip()[:12])
def test_a_sentence_reads_the_same_in_every_encoding_of_its_language(text, name):
    expected = text.replace("\r\n", "\n").encode()
    assert decode_document(text.encode(name), checked_encoding(name))[0] == expected


@pytest.mark.parametrize("mark,name", MARKS, ids=[name for _, name in MARKS])
@pytest.mark.parametrize("encoding", [None, "cp1251", "gbk", "utf-16-be", "utf-32-le"])
@given(text=texts)
def test_a_byte_order_mark_decides_whatever_encoding_is_given(mark, name, encoding, text):
    assert decode(mark + text.encode(name), encoding) == (normalized(text), name)


@given(
    text=texts,
    name=st.sampled_from(ALL),
    ending=st.sampled_from(LINE_ENDS),
    padding=st.sampled_from(["", "\0", "\0\0\0", "\x1a", "\x1a\0"]),
)
@example("яю", "cp1251", "\n", "")  # these bytes are a byte order mark
@example("Р°", "cp1251", "\n", "")  # these bytes are UTF-8
@example("\u2020", "utf-16-le", "\n", "")
def test_any_text_reads_the_same_in_any_encoding_unless_its_bytes_are_utf_8(
    text, name, ending, padding
):
    text = text.replace("\n", ending)
    try:
        content = (text + padding).encode(name)
        if content.decode(name) != text + padding:
            return  # some encodings cannot tell all their characters apart
    except UnicodeError:
        return
    marked = content.startswith((*(mark for mark, _ in MARKS), *SIGNATURES))
    try:
        document, used = decode_document(content, checked_encoding(name))
    except NotText as error:
        # A mark or a signature may promise something else than what follows. Other texts are
        # always readable.
        assert marked or not normalized(text) or "\0" in normalized(text + padding), error
        return
    if used in (checked_encoding(name), name):
        assert document.decode() == normalized(text)
    else:
        assert marked or content.decode(used)


@given(texts)
def test_normalizing_twice_changes_nothing_and_line_ends_are_line_feeds(text):
    once = normalized(text)
    assert normalized(once) == once and "\r" not in once
    assert once == normalized(text.replace("\r\n", "\n")) == normalized(text.replace("\n", "\r\n"))


@given(texts)
def test_no_utf_8_text_is_taken_for_a_binary_file(text):
    if normalized(text) and not text.encode().startswith(SIGNATURES):
        assert decode_document(text.encode()) == (normalized(text).encode(), "utf-8")


def test_the_end_mark_of_dos_and_zero_bytes_at_the_end_are_no_part_of_the_text():
    for name in ("utf-8", "cp866", "utf-16", "utf-16-le"):
        for padding in ("\x1a", "\0" * 100, "\x1a" + "\0" * 100):
            content = f"Привет\r\n{padding}".encode(name)
            encoding = None if name in ("utf-8", "utf-16") else name
            assert decode_document(content, encoding)[0] == "Привет\n".encode()


@pytest.mark.parametrize(
    "text", ["GGUF is a file format", "BZh and GIF8", "%!PS\nshowpage\n", "{}"]
)
def test_a_text_about_a_file_format_is_a_text(text):
    assert decode_document(text.encode())[0] == text.encode()


def test_an_old_text_that_ends_with_the_end_mark_of_dos_is_not_taken_for_a_binary_file():
    with pytest.raises(NotText, match="not UTF-8"):
        decode_document("Привет\r\n".encode("cp866") + b"\x1a")


def test_zero_bytes_at_the_end_of_a_utf_8_file_do_not_change_its_encoding():
    for encoding in (None, "cp1251", "gbk,latin-1"):
        content = "Привет\n".encode() + b"\0" * 500
        assert decode_document(content, encoding) == ("Привет\n".encode(), "utf-8")


def test_form_feeds_tabs_and_accents_are_part_of_the_text():
    for text in ("a\fb\n", "a\tb", "e\u0301\n", "\u00e9\n", "a  \n\n\n", "a\u2028b\u0085c\x0b"):
        assert decode_document(text.encode())[0] == text.encode()


@pytest.mark.parametrize(
    ("content", "encoding", "sentence"),
    [
        (b"abc\0defgh\0ij", None, "x is not text (it has zero bytes): give a text file"),
        (bytes(range(1, 32)), None, "x is not text (it has zero bytes or many control"),
        (b"\xff" + bytes(range(1, 32)), None, "x is not text (it has many control characters)"),
        (b"%PDF-1.4\n%\xe2\xe3\n", "cp1251", "x is not text (its first bytes are those of another"),
        (b"\x89PNG\r\n\x1a\n\0\0", "latin-1", "x is not text (its first bytes are those of anoth"),
        (b"", None, "x is empty: give a text file with something in it"),
        (codecs.BOM_UTF8 + b"\0\0", None, "x is empty"),
        (
            "Привет".encode("cp1251"),
            None,
            "x is not UTF-8 (byte 0xcf at position 0): give its encoding, for instance --encoding "
            "cp1251 (Cyrillic), gbk (Chinese) or latin-1",
        ),
        (
            "Привет".encode("cp1251"),
            "ascii",
            "x is neither UTF-8 nor ascii (byte 0xcf at position 0): choose another --encoding",
        ),
        (
            codecs.BOM_UTF16_LE + "ab".encode("utf-16-le")[:3],
            "gbk",
            "x is not UTF-16-LE (byte 0x62 at position 4): repair the file, whose byte order mark",
        ),
        (
            "Привет, мир\n".encode("utf-16-be"),
            None,
            "x is UTF-16 without a byte order mark: read it with --encoding utf-16-be",
        ),
        (
            "Привет, мир\n".encode("utf-32-le"),
            "cp1251",
            "x is UTF-32 without a byte order mark: read it with --encoding utf-32-le",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(content, encoding, sentence):
    with pytest.raises(NotText) as error:
        decode_document(content, encoding)
    assert error.value.sentence("x").startswith(sentence)


def test_several_encodings_are_tried_in_their_order():
    both = checked_encoding("GBK, windows-1251")
    assert both == "gbk,cp1251"
    for text, name in CASES:
        if name in ("gbk", "cp1251", "utf-8", "utf-16"):
            read = (text.replace("\r\n", "\n").encode(), name.replace("16", "16-le"))
            assert decode_document(text.encode(name), both) == read
    three = checked_encoding("iso-2022-jp,shift_jis,utf-16-be")
    for name in three.split(","):
        assert decode_document("いろは、ちり\n".encode(name), three)[1] == name
    with pytest.raises(NotText, match="neither UTF-8 nor ascii nor gbk"):
        decode_document(b"\xff\xff\xff", "ascii,gbk")
    with pytest.raises(UserError, match="unknown encoding 'gkb'"):
        checked_encoding("cp1251,gkb")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cp12511",
        "base64",
        "hex",
        "rot13",
        "zip",
        "idna",
        "punycode",
        "unicode_escape",
        "aliases",
    ]
    + ["undefined", "\0", "é", "a" * 1000, "utf 99", "../utf-8", "\ud800"],
)
def test_an_unknown_encoding_is_refused_with_one_sentence(name):
    with pytest.raises(UserError, match="unknown encoding") as error:
        checked_encoding(name)
    assert len(str(error.value)) <= 300 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ALL + ["UTF8", "windows-1251", "Latin1", "cp936", "UTF-16"])
def test_the_usual_names_of_encodings_are_known(name):
    assert (
        "ж中é".encode(checked_encoding(name), "ignore").decode(checked_encoding(name)) is not None
    )
