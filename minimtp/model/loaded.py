"""A model that was loaded from a folder or a file: the object that every command works on.

`minimtp.load` (formats/load.py) knows all formats and returns this object. Code that uses a model
takes the object and never a path, so only `load` depends on the formats.
"""

from dataclasses import dataclass
from pathlib import Path

from minimtp.arguments import PATH, Kind, check_fields, instance, refuse
from minimtp.engine.module import Module
from minimtp.errors import UserError
from minimtp.model.config import ModelConfig
from minimtp.model.tokenizer import Tokenizer
from minimtp.model.transformer import LanguageModel


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and the folder or file that they were loaded from."""

    path: Path
    model: LanguageModel
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        check_fields(self, path=PATH, model=_model, tokenizer=TOKENIZER)

    @property
    def config(self) -> ModelConfig:
        """The sizes of the model."""
        return self.model.config

    def limited_context(self, limit: int | None) -> int:
        """Return the number of tokens that the model may attend to: `limit`, or all of its context.

        Raises UserError if the model has no such context.
        """
        longest = self.config.context_length
        if limit is None:
            return longest
        if not 1 <= limit <= longest:
            raise UserError(
                f"context must be 1 to {longest} tokens, the context of {self.path}, not {limit}"
            )
        return limit


def _model(name: str, value: object) -> LanguageModel:
    if not isinstance(value, Module) or not hasattr(value, "trunk"):
        refuse(name, "a language model", value)
    return value


def TOKENIZER(name: str, value: object) -> Tokenizer:
    if not all(hasattr(value, part) for part in ("encode", "decode_bytes", "end_token")):
        refuse(name, "a tokenizer", value)
    return value


LOADED: Kind = instance(LoadedModel, expected="a model that minimtp.load has loaded")
