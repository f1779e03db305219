"""The tokenizer of a Hugging Face folder, with what its other files say about it.

tokenizer.json           the tokenizer itself, and the tokens that it adds before a text
generation_config.json   eos_token_id: where generated text ends, one token or several
tokenizer_config.json    chat_template: a Jinja template, or a list of named ones
chat_template.jinja      the same in newer folders
"""

from pathlib import Path

from msgspec import Struct

from minimtp.errors import UserError
from minimtp.files import kind_at
from minimtp.formats.huggingface.config import ADVICE, Config
from minimtp.records import notice, read_file, read_json
from minimtp.training.data.file_tokenizer import FileTokenizer, in_library
from minimtp.training.data.tokenizer import MAX_FILE_BYTES
from minimtp.training.data.tokenizer_content import TokenId, TokenizerSettings

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
    content = read_file(path, advice=ADVICE, max_bytes=MAX_FILE_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte 0x{content[error.start]:02x} at {error.start}): {ADVICE}"
        ) from None
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
    ends = config.eos_token_id
    if kind_at(folder / GENERATION_FILE) == "file":
        stated = read_json(folder / GENERATION_FILE, Generation, advice=ADVICE).eos_token_id
        ends = ends if stated is None else stated
    return tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)


def _begin_tokens(text: str, path: Path) -> tuple[int, ...]:
    """Return the tokens that the file's post-processor puts before a text."""
    library = in_library(text, str(path))
    with_added = library.encode("a", add_special_tokens=True).ids
    plain = library.encode("a", add_special_tokens=False).ids
    for start in range(len(with_added)):
        if with_added[start : start + len(plain)] == plain:
            return tuple(with_added[:start])
    return ()


def _chat_template(folder: Path) -> str | None:
    if kind_at(folder / TEMPLATE_FILE) == "file":
        content = read_file(folder / TEMPLATE_FILE, advice=ADVICE, max_bytes=MAX_TEMPLATE_BYTES)
        return content.decode("utf-8", "replace")
    if kind_at(folder / SETTINGS_FILE) != "file":
        return None
    template = read_json(folder / SETTINGS_FILE, Settings, advice=ADVICE).chat_template
    if isinstance(template, list):
        named = {entry.name: entry.template for entry in template}
        return named.get("default", next(iter(named.values()), None))
    return template
