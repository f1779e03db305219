"""The interface of a tokenizer, and the comparison of two. The implementations are in
training/tokenizers/.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.errors import UserError


class Tokenizer(Protocol):
    """Turns text into tokens and back. training/tokenizers/tokenizer.py explains each method.

    end_token: ends a document. end_tokens: all tokens at which generated text ends, end_token
    included.
    begin_tokens: come before every prompt and every document; most models have none.
    prompt_prefix: comes before the text of a prompt, a space in some models, else nothing.
    special_tokens: the ids of tokens that are not text, by name, such as the marks of a chat.
    chat_template: the Jinja template that turns a chat into a prompt, if the model has one.
    """

    vocabulary_size: int
    end_token: int
    end_tokens: tuple[int, ...]
    begin_tokens: tuple[int, ...]
    prompt_prefix: str
    special_tokens: Mapping[str, int]
    chat_template: str | None

    def encode(self, text: str | bytes, special: bool = False) -> Array: ...
    def decode(self, tokens: Sequence[int]) -> str: ...
    def decode_bytes(self, tokens: Sequence[int]) -> bytes: ...
    def spell(self, tokens: Sequence[int]) -> bytes: ...
    def byte_counts(self) -> Array: ...
    def to_dict(self) -> dict[str, object]: ...


def prompt_tokens(tokenizer: Tokenizer, text: str | bytes) -> Array:
    """Return the tokens of a prompt: the tokenizer's begin tokens, and the text after the prefix
    that it gives to prompts. (N,) int64.
    """
    begin = np.array(tokenizer.begin_tokens, np.int64)
    prefix = tokenizer.prompt_prefix
    if prefix:
        text = prefix + text if isinstance(text, str) else prefix.encode() + text
    return np.concatenate([begin, tokenizer.encode(text)])


# Texts in which tokenizers are known to differ, or to lose something.
PROBES = (
    "Zo\u00eb 42 \u732b",
    "It's 12345678 o'clock, WE'LL see; don't can't I'm they've 3.14159 1,000,000",
    "def f(x):\n\treturn  x**2   # two\n\n\n    if x:\r\n        pass  \r",
    " leading and trailing   ",
    "\u00e9 e\u0301 \uac00 \u1100\u1161 \ufb01 \u212b \u00c5 \u017f \u0130 STRASSE stra\u00dfe",
    "\U0001f389\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f1e9\U0001f1ea",
    "\u65e5\u672c\u8a9e\u306e\u6587\u3002 \u4e2d\u6587 \u0440\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f",
    "a\u00a0b\u2003c\u3000d\ufeffe\u2581f \u2028\u2029 \u00b2\u00bd\u2163\u0661\u0662\u0663",
    "!?;:,.()[]{}<>\"'`~@#$%^&*-_=+|\\/ ... ---- ==== //// <|endoftext|> </s> [SEP] <0x0A>",
)
MADE_UP_TEXTS, TOKENS_PER_TEXT = 48, 24


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Return whether two tokenizers do the same: equal tokens for a text, equal text for tokens.

    How their files are written does not matter. Every token's bytes are compared, and the tokens
    of the probes and of texts that are made up from the vocabulary itself.
    """
    if one is other:
        return True
    if (one.vocabulary_size, one.end_token) != (other.vocabulary_size, other.end_token):
        return False
    if not np.array_equal(one.byte_counts(), other.byte_counts()):
        return False
    every = range(one.vocabulary_size)
    if any(one.decode_bytes([token]) != other.decode_bytes([token]) for token in every):
        return False
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, one.vocabulary_size, (MADE_UP_TEXTS, TOKENS_PER_TEXT))
    texts = [*PROBES, *(one.decode_bytes(text).decode("utf-8", "ignore") for text in tokens)]
    return all(_encoded(one, text) == _encoded(other, text) for text in texts)


def vocabulary_digest(tokenizer: Tokenizer) -> str:
    """Return the sha256 over what every token means: its bytes, or the name of a special token.

    Two tokenizers with the same digest read the same tokens in the same way.
    """
    digest = hashlib.sha256(f"{tokenizer.vocabulary_size} {tokenizer.end_token}".encode())
    for token in range(tokenizer.vocabulary_size):
        spelling = tokenizer.spell([token])
        digest.update(len(spelling).to_bytes(8, "little"))
        digest.update(spelling)
    return digest.hexdigest()


def _encoded(tokenizer: Tokenizer, text: str) -> list[int] | None:
    """Return the tokens of a text, or None if the tokenizer cannot express it."""
    try:
        return tokenizer.encode(text).tolist()
    except UserError:
        return None
