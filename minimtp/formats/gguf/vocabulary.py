"""A tokenizer as metadata of a GGUF file, so that llama.cpp turns a text into exactly our tokens.

llama.cpp supports byte-level vocabularies as in GPT-2 (`tokenizer.ggml.model` "gpt2"). Each byte is
spelt as one printable character, a pattern cuts the text into words, and merges join neighbouring
tokens within a word.

    bytes                the 256 spellings in the order of the bytes, and the end of a document;
                         nothing is ever merged, so the pattern has no effect
    a tokenizers file    its vocabulary and its merges, if it is byte-level BPE with GPT-2's pattern

No token is added before or after a text. llama.cpp takes prompts as UTF-8 and replaces invalid
bytes by U+FFFD, while here every byte is a token.
"""

import json
from typing import NamedTuple

from minimtp.errors import UserError
from minimtp.model.loaded import Tokenizer
from minimtp.training.data.tokenizer import ByteTokenizer, byte_spellings, tokenizer_from_dict

END = "<|endoftext|>"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama_token_type of llama.cpp
MODEL, PATTERN = "gpt2", "gpt-2"
# A merge that never happens. llama.cpp requires a list of merges, and the library writes no empty
# list.
NEVER = f"{END} {END}"

# Settings of a BPE model that GPT-2 does not have.
BEYOND_GPT2 = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


class Vocabulary(NamedTuple):
    """The values of tokenizer.ggml.tokens, token_type, merges and eos_token_id."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    end: int


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Return the tokenizer as a vocabulary of llama.cpp.

    Raises UserError for a tokenizer that llama.cpp would apply differently.
    """
    if isinstance(tokenizer, ByteTokenizer):
        tokens = [*byte_spellings(), END]
        return Vocabulary(tokens, [NORMAL] * 256 + [CONTROL], [NEVER], tokenizer.end_token)
    from tokenizers import Tokenizer as Library

    content = json.loads(str(tokenizer.to_dict()["file"]))
    _require_plain_bpe(content)
    # The ids of added tokens may differ from those in the file, so ask the library.
    tokens = Library.from_str(json.dumps(content)).get_vocab()
    names = {token: name for name, token in tokens.items()}
    types = dict.fromkeys(tokens.values(), NORMAL)
    for added in content.get("added_tokens") or ():
        types[tokens[added["content"]]] = CONTROL if added["special"] else USER_DEFINED
    every = range(tokenizer.vocabulary_size)
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]
    ]
    return Vocabulary(
        tokens=[names.get(token, f"[unused {token}]") for token in every],
        types=[types.get(token, UNUSED) for token in every],
        merges=merges or [NEVER],
        end=tokenizer.end_token,
    )


def tokenizer_of(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer of a vocabulary. Raises UserError if the extra `interop` is missing."""
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
    added = [
        {"id": token, "content": name, "special": kind == CONTROL, **flags}
        for token, (name, kind) in every
        if kind in (CONTROL, USER_DEFINED)
    ]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "post_processor": None,
        "added_tokens": added,
        "pre_tokenizer": pattern,
        "decoder": pattern,
        "model": {
            "type": "BPE",
            "vocab": {name: token for token, (name, kind) in every if kind != UNUSED},
            "merges": [merge for merge in vocabulary.merges if merge != NEVER],
        },
    }
    return tokenizer_from_dict({"kind": "tokenizers", "file": json.dumps(content)})


def _require_plain_bpe(content: dict) -> None:
    """Raise UserError unless llama.cpp's GPT-2 tokenizer, given the same merges, is equivalent."""
    model, pattern = content["model"], content.get("pre_tokenizer") or {}
    wrong = None
    if model.get("type") != "BPE" or pattern.get("type") != "ByteLevel":
        wrong = "is not byte-level BPE"
    elif pattern.get("add_prefix_space") or not pattern.get("use_regex", True):
        wrong = "cuts text into words in another way than GPT-2"
    elif content.get("normalizer") or any(model.get(name) for name in BEYOND_GPT2):
        wrong = "changes the text before or while it merges"
    elif any(
        added[side]
        for added in content.get("added_tokens") or ()
        for side in ("lstrip", "rstrip", "single_word")
    ):
        wrong = "has added tokens that absorb the spaces next to them"
    if wrong:
        raise UserError(
            f"the model's tokenizer {wrong}, which a GGUF file cannot express: "
            "export a model with bytes or plain BPE"
        )
