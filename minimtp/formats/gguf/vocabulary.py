"""A tokenizer as metadata of a GGUF file, so that llama.cpp turns a text into exactly our tokens.

llama.cpp supports byte-level vocabularies as in GPT-2 (`tokenizer.ggml.model` "gpt2"). Each byte is
spelt as one printable character, patterns cut the text into words (pre_tokenizers.py), and merges
join neighbouring tokens within a word.

    bytes                the 256 spellings in the order of the bytes, and the end of a document;
                         nothing is ever merged, so the pattern has no effect
    a tokenizers file    its vocabulary and its merges, if it is byte-level BPE with the patterns of
                         a family that llama.cpp knows, or pieces of text (pieces.py)

llama.cpp takes prompts as UTF-8 and replaces invalid bytes by U+FFFD, while here every byte is a
token.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from minimtp.errors import UserError, shown
from minimtp.formats.gguf import pieces
from minimtp.formats.gguf.pieces import BYTE, NORMAL
from minimtp.formats.gguf.pre_tokenizers import (
    SUPPORTED,
    PreTokenizer,
    as_stage,
    byte_level,
    name_of,
    pre_tokenizer_named,
)
from minimtp.model.loaded import Tokenizer
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from minimtp.training.tokenizers.content import TokenizerSettings, word_stage
from minimtp.training.tokenizers.spellings import Pieces, byte_spellings

END = "<|endoftext|>"
# llama_token_type of llama.cpp
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5
MODEL = "gpt2"
# Control tokens with these names end a text, whatever the metadata says, as in llama.cpp.
END_NAMES = (END, "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "</s>")
# A merge that never happens. llama.cpp requires a list of merges, and the library writes no empty
# list.
NEVER = f"{END} {END}"


class Vocabulary(NamedTuple):
    """The values of tokenizer.ggml.tokens, token_type, merges, pre and eos_token_id.

    begin: the begin token, if it is added to prompts. ends: more tokens that end a text.
    space_prefix: a prompt begins with a space.
    A vocabulary of pieces (pieces.py) has its merges here, and the `pre` of that file.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    end: int
    pre: str = SUPPORTED[0]
    begin: int | None = None
    ends: tuple[int, ...] = ()
    chat_template: str | None = None
    space_prefix: bool = False


PIECES_OF_TEXT = PreTokenizer(patterns=(), begins=True)


def vocabulary_in(values: Mapping[str, Any], path: object) -> Vocabulary:
    """Return the vocabulary in the general metadata of a file. Raises UserError if its kind is not
    supported.
    """
    model, pre = values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"]
    family = PIECES_OF_TEXT if model == pieces.MODEL else pre_tokenizer_named(pre)
    if model not in (MODEL, pieces.MODEL) or family is None:
        raise UserError(
            f"{path}: tokenizer {shown(model)} with pre-tokenizer {shown(pre)} is not supported "
            f"(supported: {pieces.MODEL}, and {MODEL} with {', '.join(SUPPORTED)}): give another "
            "file"
        )
    tokens = values["tokenizer.ggml.tokens"]
    types = values["tokenizer.ggml.token_type"]
    types = [NORMAL] * len(tokens) if types is None else types.tolist()
    end, begin = values["tokenizer.ggml.eos_token_id"], values["tokenizer.ggml.bos_token_id"]
    adds = values["tokenizer.ggml.add_bos_token"]
    adds = family.begins if adds is None else adds
    if adds and begin is None:
        raise UserError(
            f"{path} adds a begin token, but does not contain tokenizer.ggml.bos_token_id: give "
            "another file"
        )
    others = [values[f"tokenizer.ggml.{name}_token_id"] for name in ("eot", "eom")]
    others += [
        token
        for token, (name, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == CONTROL and name in END_NAMES
    ]
    needed = f"tokenizer.ggml.{'scores' if model == pieces.MODEL else 'merges'}"
    merges = values[needed]
    if merges is None:
        raise UserError(
            f"{path} does not contain {needed}, so it is not complete: give another file"
        )
    if model == pieces.MODEL:
        merges, pre = pieces.merges_from(tokens, types, merges.tolist()), pieces.PRE
    return Vocabulary(
        tokens,
        types,
        merges,
        end,
        pre,
        begin if adds else None,
        tuple(sorted({token for token in others if token is not None} - {end})),
        values["tokenizer.chat_template"],
        space_prefix=model == pieces.MODEL and values["tokenizer.ggml.add_space_prefix"],
    )


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Return the tokenizer as a vocabulary of llama.cpp.

    Raises UserError for a tokenizer that llama.cpp would apply differently.
    """
    if isinstance(tokenizer, ByteTokenizer):
        tokens = [*byte_spellings(), END]
        return Vocabulary(tokens, [NORMAL] * 256 + [CONTROL], [NEVER], tokenizer.end_token)
    from tokenizers import Tokenizer as Library

    content = json.loads(str(tokenizer.to_dict()["file"]))
    is_pieces = bool(content["model"].get("byte_fallback"))
    stage = content.get("pre_tokenizer")
    pre = pieces.PRE if is_pieces else name_of(stage, bool(content["model"].get("ignore_merges")))
    if pre is None or (is_pieces and word_stage(content)):
        raise UserError(
            "the model's tokenizer cuts text into words in a way that a GGUF file cannot express "
            f"(it can express {', '.join(SUPPORTED)}): export to another format"
        )
    if len(tokenizer.begin_tokens) > 1:
        raise UserError(
            f"the model's tokenizer begins a text with {len(tokenizer.begin_tokens)} tokens, which "
            "a GGUF file cannot express: export to another format"
        )
    # The ids of added tokens may differ from those in the file, so ask the library.
    tokens = Library.from_str(json.dumps(content)).get_vocab()
    names = {token: name for name, token in tokens.items()}
    types = dict.fromkeys(tokens.values(), NORMAL)
    for added in content.get("added_tokens") or ():
        types[tokens[added["content"]]] = CONTROL if added["special"] else USER_DEFINED
    for name in Pieces("").byte_names if is_pieces else ():
        types[tokens[name]] = BYTE
    every = range(tokenizer.vocabulary_size)
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]
    ]
    return Vocabulary(
        tokens=[names.get(token, f"[unused {token}]") for token in every],
        types=[types.get(token, UNUSED) for token in every],
        merges=merges or [NEVER],
        end=tokenizer.end_token,
        pre=pre,
        begin=next(iter(tokenizer.begin_tokens), None),
        ends=tokenizer.end_tokens[1:],
        chat_template=tokenizer.chat_template,
        space_prefix=tokenizer.prompt_prefix != "",
    )


def tokenizer_of(vocabulary: Vocabulary, name: str = "the vocabulary") -> Tokenizer:
    """Return the tokenizer of a vocabulary. name: begins every message.

    Raises UserError if text would not survive it, or if the extra `interop` is missing.
    """
    if vocabulary == vocabulary_of(ByteTokenizer()):
        return ByteTokenizer()
    from minimtp.training.tokenizers.file_tokenizer import FileTokenizer

    _check(vocabulary, name)
    settings = TokenizerSettings(
        end_token=vocabulary.end,
        end_tokens=vocabulary.ends,
        begin_tokens=() if vocabulary.begin is None else (vocabulary.begin,),
        chat_template=vocabulary.chat_template,
        vocabulary_size=len(vocabulary.tokens),
    )
    return FileTokenizer(json.dumps(content_of(vocabulary)), settings, name)


def _check(vocabulary: Vocabulary, name: str) -> None:
    """Raise UserError if two tokens have one name, or a merge joins what are no tokens."""
    known = set(_used(vocabulary))
    used = sum(kind != UNUSED and word != "" for word, kind in _named(vocabulary))
    if len(known) < used:
        raise UserError(f"{name}: tokenizer.ggml.tokens has a token twice: give another file")
    for merge in vocabulary.merges:
        left, _, right = merge.partition(" ")
        if merge != NEVER and not {left, right, left + right} <= known:
            raise UserError(
                f"{name}: tokenizer.ggml.merges has {shown(merge)!r}, which does not join two "
                "tokens into one: give another file"
            )


def _named(vocabulary: Vocabulary) -> zip:
    return zip(vocabulary.tokens, vocabulary.types, strict=True)


def _used(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the ids of the tokens that are in use, by name."""
    return {
        name: token
        for token, (name, kind) in enumerate(_named(vocabulary))
        if kind != UNUSED and name
    }


def content_of(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the vocabulary as a `tokenizer.json`."""
    is_pieces = vocabulary.pre == pieces.PRE
    if is_pieces:
        family, stages = PIECES_OF_TEXT, pieces.stages(vocabulary.space_prefix)
    else:
        family = pre_tokenizer_named(vocabulary.pre)
        stages = {
            "normalizer": None,
            "pre_tokenizer": as_stage(family),
            "decoder": byte_level(use_regex=True),
        }
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": token, "content": name, "special": kind != USER_DEFINED, **flags}
        for token, (name, kind) in enumerate(_named(vocabulary))
        if name and kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "added_tokens": added,
        "model": {
            "type": "BPE",
            "vocab": _used(vocabulary),
            "merges": [merge for merge in vocabulary.merges if merge != NEVER],
            "ignore_merges": family.whole_words,
            "byte_fallback": is_pieces,
            "fuse_unk": is_pieces,
        },
        **stages,
    }
