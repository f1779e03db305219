"""The tokenizer of a Hugging Face folder, with what its other files say about it.

tokenizer.json           the tokenizer itself, and the tokens that it adds before a text
generation_config.json   eos_token_id: where generated text ends, one token or several
tokenizer_config.json    chat_template: a Jinja template, or a list of named ones
chat_template.jinja      the same in newer folders
"""

import json
import os
from pathlib import Path
from typing import Any

from msgspec import Struct

from minimtp.errors import UserError, shown
from minimtp.formats.huggingface.config import ADVICE, Config
from minimtp.formats.huggingface.config import FILE_NAME as CONFIG_FILE
from minimtp.records import notice, read_file, read_json
from minimtp.training.tokenizers.content import TokenId, TokenizerSettings, checked_content
from minimtp.training.tokenizers.file_tokenizer import FileTokenizer, attempt, in_library
from minimtp.training.tokenizers.tokenizer import MAX_FILE_BYTES

FILE_NAME = "tokenizer.json"
TEMPLATE_FILE, SETTINGS_FILE = "chat_template.jinja", "tokenizer_config.json"
GENERATION_FILE = "generation_config.json"
MAX_TEMPLATE_BYTES = 2**20


class Generation(Struct):
    """The content of generation_config.json that minimtp reads."""

    eos_token_id: TokenId | list[TokenId] | None = None


class NamedTemplate(Struct):
    name: str
    template: str


class Settings(Struct):
    """The content of tokenizer_config.json that minimtp reads."""

    chat_template: str | list[NamedTemplate] | None = None


def load_tokenizer(folder: Path, config: Config) -> FileTokenizer:
    """Return the tokenizer of a folder, with as many tokens as the model has rows.

    Raises UserError if a file is missing or damaged, or if text would not survive the tokenizer.
    """
    path = folder / FILE_NAME
    text = _read_text(path, MAX_FILE_BYTES)
    ends = _end_tokens(folder, config)
    settings = TokenizerSettings(
        end_token=next(iter(ends), None),
        end_tokens=ends,
        begin_tokens=_begin_tokens(text, path),
        chat_template=_chat_template(folder),
        vocabulary_size=config.vocab_size,
    )
    tokenizer = FileTokenizer(text, settings, str(path))
    for sentence in tokenizer.notes:
        notice(sentence)
    return tokenizer


def _end_tokens(folder: Path, config: Config) -> tuple[int, ...]:
    ends, path = config.eos_token_id, folder / CONFIG_FILE
    if os.path.lexists(folder / GENERATION_FILE):
        stated = read_json(folder / GENERATION_FILE, Generation, advice=ADVICE).eos_token_id
        if stated is not None:
            ends, path = stated, folder / GENERATION_FILE
    found = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
    for token in found:
        if not 0 <= token < config.vocab_size:
            raise UserError(
                f"{path}: eos_token_id {shown(token)} is not one of the model's "
                f"{config.vocab_size} tokens: {ADVICE}"
            )
    return found


def _begin_tokens(text: str, path: Path) -> tuple[int, ...]:
    """Return the tokens that the file's post-processor puts before a text.

    Raises UserError if the file is damaged, or if the post-processor names an unknown token.
    """
    content = checked_content(text, str(path)).content
    library = in_library(json.dumps(content), str(path))  # checks the form of the post-processor
    _require_known_tokens(content.get("post_processor"), path)
    with attempt(str(path)):
        with_added = library.encode("a", add_special_tokens=True).ids
        plain = library.encode("a", add_special_tokens=False).ids
    for start in range(len(with_added)):
        if with_added[start : start + len(plain)] == plain:
            return tuple(with_added[:start])
    return ()


def _require_known_tokens(stage: Any, path: Path) -> None:
    """Raise UserError if a template names a token that it does not declare: the library ends the
    process then.
    """
    if not isinstance(stage, dict):
        return
    for part in stage.get("processors") or []:
        _require_known_tokens(part, path)
    declared = stage.get("special_tokens")
    for form in ("single", "pair"):
        for piece in stage.get(form) or []:
            token = piece.get("SpecialToken", {}).get("id") if isinstance(piece, dict) else None
            if token is not None and token not in (declared or {}):
                raise UserError(
                    f"{path}: the post_processor names the token {shown(token)}, which it does not "
                    f"declare in special_tokens: {ADVICE}"
                )


def _chat_template(folder: Path) -> str | None:
    if os.path.lexists(folder / TEMPLATE_FILE):
        return _read_text(folder / TEMPLATE_FILE, MAX_TEMPLATE_BYTES)
    if not os.path.lexists(folder / SETTINGS_FILE):
        return None
    template = read_json(folder / SETTINGS_FILE, Settings, advice=ADVICE).chat_template
    if isinstance(template, list):
        named = {entry.name: entry.template for entry in template}
        return named.get("default", next(iter(named.values()), None))
    return template


def _read_text(path: Path, max_bytes: int) -> str:
    content = read_file(path, advice=ADVICE, max_bytes=max_bytes)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte 0x{content[error.start]:02x} at {error.start}): {ADVICE}"
        ) from None
