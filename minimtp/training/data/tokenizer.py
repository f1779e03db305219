"""Turning text into tokens and back.

A tokenizer (the protocol is in model/tokenizer.py) has

    vocabulary_size, end_token      the number of tokens, and the token that ends a document
    encode(text) -> (N,) int64      text is str, or bytes, which need not be valid UTF-8
    decode_bytes(tokens) -> bytes   the bytes of the text; the end token has none
    decode(tokens) -> str           the same as str, with U+FFFD where the bytes are not UTF-8
    byte_counts() -> (V,) int64     bytes of text of each token, for losses in bits per byte
    to_dict() -> dict               stored in the checkpoint; `tokenizer_from_dict` restores it

The built-in tokenizer uses bytes: token = byte, and 256 ends a document. It needs no training,
every text can be encoded, and predicting several tokens ahead gains most on bytes. Byte-level BPE
files of the `tokenizers` library (`tokenizer.json`) can be used with the extra `interop`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.files import reason_for
from minimtp.model.tokenizer import Tokenizer


class ByteTokenizer:
    """Token = byte; 256 ends a document."""

    vocabulary_size = 257
    end_token = 256

    def encode(self, text: str | bytes) -> np.ndarray:
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        return np.frombuffer(raw, np.uint8).astype(np.int64)

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return bytes(int(token) for token in tokens if int(token) != self.end_token)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def byte_counts(self) -> np.ndarray:
        counts = np.ones(self.vocabulary_size, np.int64)
        counts[self.end_token] = 0
        return counts

    def to_dict(self) -> dict[str, object]:
        return {"kind": "bytes"}


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character with which byte-level vocabularies (GPT-2's) spell bytes.

    If the character of a byte is printable, it is also its spelling.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + rank): byte for rank, byte in enumerate(others)
    }


_BYTES = _byte_alphabet()
SPACE = "\u0120"  # the spelling of a space


def _spelt(name: str) -> bytes:
    """Return the bytes of a token with this name.

    A name with other characters is the text itself, as in the library.
    """
    return bytes(map(_BYTES.__getitem__, name)) if _BYTES.keys() >= set(name) else name.encode()


def byte_spellings() -> list[str]:
    """Return the characters with which byte-level vocabularies spell the bytes 0, 1, ..., 255."""
    return sorted(_BYTES, key=_BYTES.get)


class FileTokenizer:
    """A byte-level BPE `tokenizer.json`, read by the `tokenizers` library.

    content: the content of the file, which is stored in the checkpoint.

    The name of a token spells its bytes, one printable character per byte. The name of an added
    token is its text (a run of spaces, for instance), except for special tokens such as the end of
    a document, which have no text.

    Raises UserError if the content is not such a tokenizer or the library is missing.
    """

    END_NAMES = ("<|endoftext|>", "</s>", "<|im_end|>", "<eos>", "[SEP]")

    def __init__(self, content: str):
        try:
            import tokenizers
        except ImportError:
            raise UserError(
                "this tokenizer needs the extra interop: pip install 'minimtp[interop]'"
            ) from None
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                f"the tokenizers library cannot read this tokenizer file: {error}"
            ) from None
        decoder = self._tokenizer.decoder
        if decoder is None or decoder.decode([SPACE]) != " ":
            raise UserError("this tokenizer is not byte-level: give a byte-level BPE file")
        self._content = content
        self.vocabulary_size = max(self._tokenizer.get_vocab().values()) + 1
        known = [self._tokenizer.token_to_id(name) for name in self.END_NAMES]
        if all(token is None for token in known):
            raise UserError(
                "the tokenizer has no end-of-document token: "
                f"it needs one of {', '.join(self.END_NAMES)}"
            )
        self.end_token = next(token for token in known if token is not None)
        self._bytes = self._bytes_of_tokens()

    def encode(self, text: str | bytes) -> np.ndarray:
        text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """Return the exact bytes, even if a token holds only a part of a character."""
        return b"".join(self._bytes.get(int(token), b"") for token in tokens)

    def byte_counts(self) -> np.ndarray:
        counts = np.zeros(self.vocabulary_size, np.int64)
        for token, spelt in self._bytes.items():
            counts[token] = len(spelt)
        return counts

    def _bytes_of_tokens(self) -> dict[int, bytes]:
        """Return the bytes of each token that is text."""
        names = self._tokenizer.get_vocab(with_added_tokens=False)
        known = {token: _spelt(name) for name, token in names.items() if token != self.end_token}
        for token, added in self._tokenizer.get_added_tokens_decoder().items():
            if added.special:
                known.pop(token, None)
            elif token != self.end_token:
                known[token] = added.content.encode()
        return known

    def to_dict(self) -> dict[str, object]:
        return {
            "kind": "tokenizers",
            "sha256": hashlib.sha256(self._content.encode()).hexdigest(),
            "file": self._content,
        }


def open_tokenizer(path: str | Path | None) -> Tokenizer:
    """Return the tokenizer of the file, or the byte tokenizer for None. Raises UserError if it is
    unusable.
    """
    if path is None:
        return ByteTokenizer()
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_for(error)
        raise UserError(f"the tokenizer file {path} cannot be read: {reason}") from None
    try:
        return FileTokenizer(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def tokenizer_from_dict(stored: dict[str, object]) -> Tokenizer:
    """Return the tokenizer that `to_dict` described. Raises UserError for an unknown kind."""
    if stored.get("kind") == "bytes":
        return ByteTokenizer()
    if stored.get("kind") == "tokenizers":
        return FileTokenizer(str(stored["file"]))
    raise UserError(
        f"this run has a tokenizer of the unknown kind {stored.get('kind')!r}: "
        "use the version of minimtp that wrote it"
    )
