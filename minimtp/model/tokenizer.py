"""The interface of a tokenizer. training/data/tokenizer.py has the implementations."""

from collections.abc import Sequence
from typing import Protocol

from minimtp.backend import Array


class Tokenizer(Protocol):
    """Turns text into tokens and back. training/data/tokenizer.py explains each method."""

    vocabulary_size: int
    end_token: int

    def encode(self, text: str | bytes) -> Array: ...
    def decode(self, tokens: Sequence[int]) -> str: ...
    def decode_bytes(self, tokens: Sequence[int]) -> bytes: ...
    def byte_counts(self) -> Array: ...
    def to_dict(self) -> dict[str, object]: ...
