"""A model that was loaded from a folder or a file: the object that every command works on.

`minimtp.load` (formats/load.py) knows all formats and returns this object. Code that uses a model
takes the object and never a path, so only `load` depends on the formats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from minimtp.backend import Array
from minimtp.model.config import ModelConfig
from minimtp.model.transformer import LanguageModel


class Tokenizer(Protocol):
    """Turns text into tokens and back. training/data/tokenizer.py explains each method."""

    vocabulary_size: int
    end_token: int

    def encode(self, text: str | bytes) -> Array: ...
    def decode(self, tokens: Sequence[int]) -> str: ...
    def decode_bytes(self, tokens: Sequence[int]) -> bytes: ...
    def byte_counts(self) -> Array: ...
    def to_dict(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and the folder or file that they were loaded from."""

    path: Path
    model: LanguageModel
    tokenizer: Tokenizer

    @property
    def config(self) -> ModelConfig:
        """The sizes of the model."""
        return self.model.config
