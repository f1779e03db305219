"""Turning text into tokens and back.

A tokenizer is any object with

    vocabulary_size, end_token      how many tokens there are, and the one that ends a document
    encode(text) -> (N,) int64      `text` is str, or bytes where they need not be valid UTF-8
    decode_bytes(tokens) -> bytes   the text's bytes; the end token gives none
    decode(tokens) -> str           the same as text, with U+FFFD where the bytes are not UTF-8
    byte_counts() -> (V,) int64     how many bytes of text each token stands for, to convert losses to bits per byte
    to_dict() -> dict               what a checkpoint stores; `tokenizer_from_dict` makes the same tokenizer again

Bytes are the built-in one: token = byte, 256 = end of document. There is nothing to train, nothing is out of
vocabulary, and predicting several tokens ahead gains most on bytes. Byte-level BPE files of the `tokenizers` library
(`tokenizer.json`) plug in beside it, with the extra `interop`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from minimtp.backend import numpy as np
from minimtp.errors import UserError


class Tokenizer(Protocol):
    vocabulary_size: int
    end_token: int

    def encode(self, text: str | bytes) -> np.ndarray: ...
    def decode(self, tokens: Sequence[int]) -> str: ...
    def decode_bytes(self, tokens: Sequence[int]) -> bytes: ...
    def byte_counts(self) -> np.ndarray: ...
    def to_dict(self) -> dict[str, object]: ...


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
    """The printable character that byte-level vocabularies spell each byte with (GPT-2's): itself where it is one."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + rank): byte for rank, byte in enumerate(others)
    }


_BYTES = _byte_alphabet()
SPACE = "\u0120"  # as it is spelt


def _spelt(name: str) -> bytes:
    """The bytes of a token of that name; like the library, take what no byte is spelt with for the text itself."""
    return bytes(map(_BYTES.__getitem__, name)) if _BYTES.keys() >= set(name) else name.encode()


def byte_spellings() -> list[str]:
    """The 256 characters that stand for the bytes 0, 1, ... in byte-level vocabularies."""
    return sorted(_BYTES, key=_BYTES.get)


class FileTokenizer:
    """A byte-level BPE `tokenizer.json`, read by the `tokenizers` library; its content travels in the checkpoint.

    A token's name spells its bytes, one printable character each. Added tokens are called what they stand for in a text (runs
    of spaces, say), except for special ones, marks such as the end, which are no text.
    Raises UserError for a file that is another kind of tokenizer, or none, and where the library is missing.
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
                f"this is not a tokenizer file that the tokenizers library reads: {error}"
            ) from None
        decoder = self._tokenizer.decoder
        if decoder is None or decoder.decode([SPACE]) != " ":
            raise UserError(
                "this tokenizer is not byte-level, and its tokens do not spell bytes: give a byte-level BPE file"
            )
        self._content = content
        self.vocabulary_size = max(self._tokenizer.get_vocab().values()) + 1
        known = [self._tokenizer.token_to_id(name) for name in self.END_NAMES]
        if all(token is None for token in known):
            raise UserError(
                f"the tokenizer has no end-of-document token; one of {', '.join(self.END_NAMES)} is needed"
            )
        self.end_token = next(token for token in known if token is not None)
        self._bytes = self._bytes_of_tokens()

    def encode(self, text: str | bytes) -> np.ndarray:
        text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """Exact, though a token may hold a part of a character only."""
        return b"".join(self._bytes.get(int(token), b"") for token in tokens)

    def byte_counts(self) -> np.ndarray:
        counts = np.zeros(self.vocabulary_size, np.int64)
        for token, spelt in self._bytes.items():
            counts[token] = len(spelt)
        return counts

    def _bytes_of_tokens(self) -> dict[int, bytes]:
        """Of those that are text."""
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
    """The built-in byte tokenizer for None, else the file at `path`. Raises UserError when it cannot be used."""
    if path is None:
        return ByteTokenizer()
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the tokenizer file {path} cannot be read: {error}") from None
    return FileTokenizer(content)


def tokenizer_from_dict(stored: dict[str, object]) -> Tokenizer:
    """The tokenizer that `to_dict` described. Raises UserError for a kind that this version does not know."""
    if stored.get("kind") == "bytes":
        return ByteTokenizer()
    if stored.get("kind") == "tokenizers":
        return FileTokenizer(str(stored["file"]))
    raise UserError(
        f"this run uses a tokenizer of kind {stored.get('kind')!r}, which this version does not know"
    )
