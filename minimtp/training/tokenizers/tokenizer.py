"""Turning text into tokens and back.

A tokenizer (the protocol is in model/tokenizer.py) has

    vocabulary_size                 the number of tokens
    end_token, end_tokens           the token that ends a document; all that end generated text
    begin_tokens                    tokens before every prompt and document, often none
    special_tokens, chat_template   the marks of a chat by name, and how they are used
    encode(text) -> (N,) int64      text is str, or bytes, which need not be valid UTF-8
    decode_bytes(tokens) -> bytes   the bytes of the text; special tokens have none
    decode(tokens) -> str           the same as str, with U+FFFD where the bytes are not UTF-8
    spell(tokens) -> bytes          the same as decode_bytes, with the names of special tokens
    byte_counts() -> (V,) int64     bytes of text of each token, for losses in bits per byte
    to_dict() -> dict               stored in the checkpoint; `tokenizer_from_dict` restores it

Decoding the tokens of a text gives the text, or `encode` raises a UserError.

The built-in tokenizer uses bytes (byte_tokenizer.py). Byte-level BPE files of the `tokenizers`
library (`tokenizer.json`) can be used with the extra `interop` (file_tokenizer.py).
"""

from collections.abc import Mapping
from pathlib import Path

from minimtp.errors import UserError, shown
from minimtp.model.tokenizer import Tokenizer
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer

MAX_FILE_BYTES = 128 * 2**20
STORED = "the tokenizer of this run"  # begins the messages about one in a checkpoint


def open_tokenizer(path: str | Path | None) -> Tokenizer:
    """Return the tokenizer of the file, or the byte tokenizer for None. Raises UserError if it is
    unusable.
    """
    if path is None:
        return ByteTokenizer()
    from minimtp.records import notice, read_file
    from minimtp.training.tokenizers.content import ADVICE
    from minimtp.training.tokenizers.file_tokenizer import FileTokenizer

    content = read_file(path, advice=ADVICE, max_bytes=MAX_FILE_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte 0x{content[error.start]:02x} at {error.start}): {ADVICE}"
        ) from None
    tokenizer = FileTokenizer(text, name=str(path))
    for sentence in tokenizer.notes:
        notice(sentence)
    return tokenizer


def tokenizer_from_dict(stored: Mapping[str, object]) -> Tokenizer:
    """Return the tokenizer that `to_dict` described.

    Raises UserError for an unknown kind, and as FileTokenizer does.
    """
    kind = stored.get("kind")
    if kind == "bytes":
        return ByteTokenizer()
    if kind != "tokenizers" or not isinstance(stored.get("file"), str):
        raise UserError(
            f"{STORED} is of the unknown kind {shown(kind)!r}: "
            "use the version of minimtp that wrote it"
        )
    from minimtp.records import check_value
    from minimtp.training.tokenizers.content import ADVICE, TokenizerSettings
    from minimtp.training.tokenizers.file_tokenizer import FileTokenizer

    settings = check_value(dict(stored), TokenizerSettings, STORED, ADVICE)
    return FileTokenizer(stored["file"], settings, STORED)
