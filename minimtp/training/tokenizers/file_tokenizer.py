"""Byte-level BPE: a `tokenizer.json` of the `tokenizers` library, used so that text survives.

**Problem.** Such a file may change the text. BPE dropout makes the tokens random. A normalizer
rewrites characters. A vocabulary without some bytes drops the characters that need them. A marker
of a chat that a user's text happens to contain becomes a control token.

**What is guaranteed.** Decoding the tokens of a text gives the bytes of the text, always the same
tokens, or there is an error that names the character:

* When a file is loaded, settings that change the text are switched off, with a sentence in `notes`,
  or the file is refused. All bytes of ordinary text need a token, and a set of difficult texts must
  come back unchanged.
* `encode` compares the bytes of its tokens with the bytes of the text.
* Bytes that are not UTF-8 become the tokens of single bytes.
* Names of special tokens in a text are text. Only `encode(..., special=True)` turns them into the
  special tokens, for prompts that a chat template has written.

Vocabularies of pieces with byte fallback (SentencePiece's, as in Llama 2) are read in the same way
(spellings.py).

Many vocabularies lack a few bytes that texts hardly contain, such as control characters
(SmolLM2's lacks 21 bytes). These are accepted, and a text that needs them is refused.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from minimtp import extras
from minimtp.backend import numpy as np
from minimtp.errors import UserError, shown, utf8
from minimtp.files.silence import silent_errors
from minimtp.machine import require_memory
from minimtp.model.tokenizer import PROBES
from minimtp.training.tokenizers.content import TokenizerSettings, checked_content
from minimtp.training.tokenizers.cuts import places_to_cut
from minimtp.training.tokenizers.spellings import Pieces

END_NAMES = ("<|endoftext|>", "</s>", "<|im_end|>", "<eos>", "[SEP]")
PIECE = 2**18  # characters that the library gets at once, if a text can be cut
LONG = 16 * PIECE  # characters at once from which the memory is checked
MEMORY = 400  # bytes that the library needs for each byte of a text, at most
# Bytes that every text may contain: printable ASCII, tab and line ends, and the bytes of UTF-8 for
# characters up to U+3FFFF.
ORDINARY = {9, 10, 13, *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF1)}


class FileTokenizer:
    """A byte-level BPE tokenizer file, read by the `tokenizers` library.

    content: the content of the file. settings: what other files of a model say about it.
    name: the file, which begins every message.
    notes: a sentence for each setting of the file that was switched off.

    The name of a token spells its bytes, one printable character per byte. The name of an added
    token is its text (a run of spaces, for instance), except for special tokens such as the end of
    a document, which have no text.

    Raises UserError if the content is not such a tokenizer, if text would not survive it, or if the
    library is missing.
    """

    def __init__(
        self,
        content: str,
        settings: TokenizerSettings | None = None,
        name: str = "the tokenizer file",
    ) -> None:
        checked = checked_content(content, name)
        self.notes, self._spelling = checked.notes, checked.spelling
        self.prompt_prefix = self._spelling.prompt_prefix
        self._content = json.dumps(checked.content, ensure_ascii=False)
        self._tokenizer = in_library(json.dumps(checked.library, ensure_ascii=False), name)
        with attempt(name):
            self._tokenizer.encode("a")  # some faults of a file show only now
        if not isinstance(self._spelling, Pieces):
            _require_byte_level(self._tokenizer, name)
        self._name, self._settings = name, settings or TokenizerSettings()
        settings = self._settings
        known = self._tokenizer.get_vocab()
        self.special_tokens = {
            added.content: token
            for token, added in self._tokenizer.get_added_tokens_decoder().items()
            if added.special
        }
        self.vocabulary_size = max(max(known.values()) + 1, settings.vocabulary_size or 0)
        self.end_token = _end_token(settings, known, name)
        self.end_tokens = tuple(dict.fromkeys((self.end_token, *settings.end_tokens)))
        self.begin_tokens = tuple(settings.begin_tokens)
        self.chat_template = settings.chat_template
        for token in (*self.end_tokens, *self.begin_tokens):
            if not 0 <= token < self.vocabulary_size:
                raise UserError(
                    f"{name}: {token} is not one of its {self.vocabulary_size} tokens: give the "
                    "tokenizer that belongs to the model"
                )
        self._bytes = self._bytes_of_tokens()
        names = {token: name for name, token in known.items()}
        self._names = {
            token: names.get(token, "").encode()
            for token in (*self.special_tokens.values(), *self.end_tokens)
        }
        self._special = _alternatives(self.special_tokens)
        self._counts = self._count_bytes()
        self._byte_tokens = {
            byte: known[spelling]
            for byte, spelling in enumerate(self._spelling.byte_names)
            if spelling in known and self._bytes.get(known[spelling]) == bytes([byte])
        }
        self._cuts = places_to_cut(self._in_library, self._bytes.values())
        self._require_survival(name)

    def encode(self, text: str | bytes, special: bool = False) -> np.ndarray:
        """Return the tokens of the text, (N,) int64.

        special: names of special tokens in the text stand for these tokens.
        Raises UserError for a character that the vocabulary cannot express.
        """
        text = utf8(text, "the text").decode("utf-8", "surrogateescape")
        found = [np.zeros(0, np.int64)]
        for part in self._special.split(text) if special and self._special else (text,):
            token = self.special_tokens.get(part) if special else None
            found += self._encode_text(part) if token is None else [np.array([token], np.int64)]
        return np.concatenate(found)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """Return the exact bytes, even if a token holds only a part of a character."""
        return b"".join(self._bytes.get(int(token), b"") for token in tokens)

    def spell(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of the tokens, and of special tokens their names."""
        texts, names = self._bytes, self._names
        return b"".join(texts.get(int(t)) or names.get(int(t), b"") for t in tokens)

    def byte_counts(self) -> np.ndarray:
        return self._counts.copy()

    def to_dict(self) -> dict[str, object]:
        return {"kind": "tokenizers", "file": self._content, **self._settings.to_dict()}

    def _encode_text(self, text: str) -> Iterator[np.ndarray]:
        """Yield the tokens of the text, part by part."""
        apart = self._spelling.apart
        for part in apart.split(text) if apart.search(text) else (text,):
            if apart.match(part):
                raw = part.encode("utf-8", "surrogateescape")
                yield np.array([self._byte_token(byte) for byte in raw], np.int64)
            else:
                for piece in self._cut(part):
                    yield np.array(self._encode_unicode(piece), np.int64)

    def _cut(self, text: str) -> Iterator[str]:
        """Yield the text in pieces whose tokens are those of the whole text.

        Raises UserError if a piece that cannot be cut does not fit into the memory.
        """
        start = 0
        while start < len(text):
            place = None
            if self._cuts and len(text) - start > PIECE:
                place = self._cuts.search(text, start + PIECE)
            end = place.end() if place else len(text)
            if end - start > LONG:
                require_memory(
                    len(text[start:end].encode()) * MEMORY,
                    f"a text of {end - start:,} characters without a place to cut it",
                    "put line ends into it, or give less text",
                )
            yield text[start:end]
            start = end

    def _encode_unicode(self, text: str) -> list[int]:
        tokens = self._in_library(text)
        raw = text.encode()
        if self._counts[tokens].sum() != len(raw):
            for byte in sorted(set(raw) - self._byte_tokens.keys()):
                self._byte_token(byte)
            raise UserError(
                f"this tokenizer changes the text {shown(text)!r}: use another tokenizer or model"
            )
        return tokens

    def _in_library(self, text: str) -> list[int]:
        with readable(self._name):
            found = self._tokenizer.encode(self._spelling.prepare(text), add_special_tokens=False)
        return found.ids

    def _byte_token(self, byte: int) -> int:
        if byte not in self._byte_tokens:
            raise UserError(
                f"the text contains the byte 0x{byte:02x}, for which this model's tokenizer has no "
                "token: remove it, or use another tokenizer or model"
            )
        return self._byte_tokens[byte]

    def _bytes_of_tokens(self) -> dict[int, bytes]:
        """Return the bytes of each token that is text."""
        names = self._tokenizer.get_vocab(with_added_tokens=False)
        ends = {self.end_token, *self.end_tokens}
        spelt = self._spelling.spelt
        known = {token: spelt(name) for name, token in names.items() if token not in ends}
        for token, added in self._tokenizer.get_added_tokens_decoder().items():
            if added.special:
                known.pop(token, None)
            elif token not in ends:
                known[token] = added.content.encode()
        return known

    def _count_bytes(self) -> np.ndarray:
        counts = np.zeros(self.vocabulary_size, np.int64)
        for token, text in self._bytes.items():
            counts[token] = len(text)
        return counts

    def _require_survival(self, name: str) -> None:
        """Raise UserError unless ordinary text comes back unchanged."""
        missing = sorted(ORDINARY - self._byte_tokens.keys())
        for token in self.end_tokens if missing else ():
            text = (
                self._spelling.spelt(self._names[token].decode()) if token in self._names else b""
            )
            if len(text) == 1 and text[0] in missing:
                raise UserError(
                    f"{name}: token {token}, which ends a text, is {chr(text[0])!r}, a character "
                    "of ordinary text: correct eos_token_id (generation_config.json, config.json)"
                )
        if missing:
            raise UserError(
                f"{name} has no token for {_some_bytes(missing)}, so it would lose text: use a "
                "tokenizer that was trained with the whole byte-level alphabet"
            )
        for text in self._probes():
            tokens, again = self._in_library(text), self._in_library(text)
            if self.decode_bytes(tokens) != text.encode() or tokens != again:
                raise UserError(
                    f"{name} changes the text {shown(text)!r}: use a tokenizer whose tokens decode "
                    "to the text"
                )

    def _probes(self) -> Iterator[str]:
        """Yield difficult texts that the vocabulary can express."""
        known = self._byte_tokens.keys()
        for text in PROBES:
            text = self._spelling.apart.sub("", text)
            if known >= set(text.encode()):
                yield text
        characters = "".join(map(chr, [*range(0x800), *range(0x800, 0xD800, 61)]))
        yield "".join(
            c for c in characters if known >= set(c.encode()) and not self._spelling.apart.match(c)
        )
        yield " ".join("\n".join(" " * n + "x" for n in range(20)))


def in_library(content: str, name: str) -> Any:
    """Return the tokenizer of the library. Raises UserError if the library cannot read it."""
    tokenizers = extras.require("tokenizers", name)
    with attempt(name):
        tokenizer = tokenizers.Tokenizer.from_str(content)
    tokenizer.encode_special_tokens = True  # names of special tokens in a text are text
    return tokenizer


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise UserError if the library fails in the `with` block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException:  # the library raises bare Exception, and its Rust code may panic
        raise UserError(
            f"{name} is not a tokenizer that the installed library tokenizers can use: give a "
            "tokenizer.json"
        ) from None


@contextmanager
def attempt(name: str) -> Iterator[None]:
    """Like `readable`, and hide what the library writes to the error output when it panics."""
    with readable(name), silent_errors():
        yield


def _require_byte_level(tokenizer: Any, name: str) -> None:
    spaces = None
    if tokenizer.decoder is not None:
        with readable(name):
            spaces = tokenizer.decoder.decode(["\u0120"])
    if spaces != " ":
        raise UserError(f"{name} is not byte-level: give a byte-level BPE file")


def _end_token(settings: TokenizerSettings, known: Mapping[str, int], name: str) -> int:
    if settings.end_token is not None:
        return settings.end_token
    end = next((known[word] for word in END_NAMES if word in known), None)
    if end is None:
        raise UserError(
            f"{name} has no end-of-document token: it needs one of {', '.join(END_NAMES)}"
        )
    return end


def _alternatives(names: Mapping[str, int]) -> re.Pattern | None:
    """Return a pattern that splits a text at the names, and keeps them. The longest name wins."""
    ordered = sorted(filter(None, names), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, ordered))})") if ordered else None


def _some_bytes(missing: list[int]) -> str:
    words = ", ".join(
        repr(chr(byte)) if 0x20 < byte < 0x7F else f"the byte 0x{byte:02x}" for byte in missing[:3]
    )
    return words + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
