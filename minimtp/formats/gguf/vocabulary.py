"""A tokenizer as the metadata of a GGUF file, so that llama.cpp's own tokenizer makes exactly our tokens of a text.

llama.cpp knows byte-level vocabularies as GPT-2 has them (`tokenizer.ggml.model` "gpt2"): each byte is spelt as one printable
character, a text is cut into words by a pattern, and merges join neighbouring tokens within a word.

    bytes                 the 256 spellings, in the order of the bytes, and the end of a document; nothing is ever merged, so
                          that the pattern does not matter
    a tokenizers file     its vocabulary and its merges, where they are byte-level BPE over GPT-2's pattern

Nothing is put before a text or behind it. llama.cpp takes prompts as UTF-8: bytes that are not become U+FFFD there, while here
every byte is a token.
"""

import json
from typing import NamedTuple

from minimtp.errors import UserError
from minimtp.training.data.tokenizer import (
    ByteTokenizer,
    Tokenizer,
    byte_spellings,
    tokenizer_from_dict,
)

END = "<|endoftext|>"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama_token_type of llama.cpp
MODEL, PATTERN = "gpt2", "gpt-2"
NEVER = f"{END} {END}"  # a merge that cannot happen: llama.cpp wants a list of them, and the library writes no empty one


class Vocabulary(NamedTuple):
    """What the keys tokenizer.ggml.tokens, token_type, merges and eos_token_id say."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    end: int


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer as llama.cpp knows it. Raises UserError for one that it would read differently."""
    if isinstance(tokenizer, ByteTokenizer):
        tokens = [*byte_spellings(), END]
        return Vocabulary(tokens, [NORMAL] * 256 + [CONTROL], [NEVER], tokenizer.end_token)
    from tokenizers import Tokenizer as Library  # which has read the file already

    content = json.loads(str(tokenizer.to_dict()["file"]))
    _require_plain_bpe(content)
    tokens = Library.from_str(
        json.dumps(content)
    ).get_vocab()  # the file's own ids of added tokens need not be these
    names, types = (
        {token: name for name, token in tokens.items()},
        dict.fromkeys(tokens.values(), NORMAL),
    )
    for added in content.get("added_tokens") or ():
        types[tokens[added["content"]]] = CONTROL if added["special"] else USER_DEFINED
    every = range(tokenizer.vocabulary_size)
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]
    ]
    return Vocabulary(
        [names.get(token, f"[unused {token}]") for token in every], [types.get(token, UNUSED) for token in every],
        merges or [NEVER], tokenizer.end_token,
    )  # fmt: skip


def tokenizer_of(vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer that such a vocabulary was made of. Raises UserError where the extra that it needs is missing."""
    if vocabulary == vocabulary_of(ByteTokenizer()):
        return ByteTokenizer()
    every = list(enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)))
    pattern = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [
            {"id": token, "content": name, "special": kind == CONTROL, **flags}
            for token, (name, kind) in every if kind in (CONTROL, USER_DEFINED)
        ],
        "pre_tokenizer": pattern, "decoder": pattern,
        "model": {
            "type": "BPE", "vocab": {name: token for token, (name, kind) in every if kind != UNUSED},
            "merges": [merge for merge in vocabulary.merges if merge != NEVER],
        },
    }  # fmt: skip
    return tokenizer_from_dict({"kind": "tokenizers", "file": json.dumps(content)})


def _require_plain_bpe(content: dict) -> None:
    """Raise UserError unless llama.cpp's GPT-2 tokenizer, told vocabulary and merges, does what this file does."""
    model, pattern = content["model"], content.get("pre_tokenizer") or {}
    wrong = None
    if model.get("type") != "BPE" or pattern.get("type") != "ByteLevel":
        wrong = "is not byte-level BPE"
    elif pattern.get("add_prefix_space") or not pattern.get("use_regex", True):
        wrong = "cuts texts into words in another way than GPT-2"
    elif content.get("normalizer") or any(model.get(name) for name in BEYOND_GPT2):
        wrong = "changes texts before or while it merges"
    elif any(
        added[side]
        for added in content.get("added_tokens") or ()
        for side in ("lstrip", "rstrip", "single_word")
    ):
        wrong = "has added tokens that take the spaces beside them"
    if wrong:
        raise UserError(
            f"the run's tokenizer {wrong}, which a GGUF file cannot say: export a run with bytes or plain BPE"
        )


BEYOND_GPT2 = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
