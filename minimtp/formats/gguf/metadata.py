"""The metadata that minimtp reads: each key with its type, range and default, declared once.

The file says of what type a value is, and any program can write any value. So `read_metadata`
compares every value with its declaration, and then checks what the values must be to one another.
What it returns can be relied on.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.formats.gguf.container import GgufFile, Value, short
from minimtp.training.recipe import MAX_DRAFT_DEPTH, MAX_VOCABULARY
from minimtp.training.settings import exact

ARCHITECTURES = ("llama", "qwen2", "qwen3")
HEAD = "eagle3"  # the architecture of a draft head
REQUIRED = object()
WHOLE = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
KINDS = {  # types in the file that a kind of key accepts, and the kind's name in messages
    "whole": (WHOLE, "a whole number"),
    "number": (("float32", "float64", *WHOLE), "a number"),
    "flag": (("bool",), "true or false"),
    "text": (("string",), "a string"),
    "texts": (("array of string",), "an array of strings"),
    "numbers": (("array of float32",), "an array of numbers"),
    "wholes": (tuple(f"array of {kind}" for kind in WHOLE), "an array of whole numbers"),
}


class Key(NamedTuple):
    """A declaration. low, high: the range of a number, or of the length of an array."""

    kind: str
    low: float = 0
    high: float = 0
    default: object = REQUIRED

    def accepts(self, value: Value) -> bool:
        if value.type not in KINDS[self.kind][0]:
            return False
        if self.kind in ("whole", "number"):
            return isfinite(value.value) and self.low <= value.value <= self.high
        if self.kind == "numbers" and not np.isfinite(value.value).all():
            return False
        return self.kind[-1] != "s" or self.low <= len(value.value) <= self.high

    def __str__(self) -> str:
        words = KINDS[self.kind][1]
        if self.kind in ("flag", "text"):
            return words
        limits = f"from {exact(self.low)} to {exact(self.high)}"
        if self.kind in ("whole", "number"):
            return f"{words} {limits}"
        return f"{words} of length {exact(self.low) if self.low == self.high else limits}"


TOKEN_ID = Key("whole", 0, MAX_VOCABULARY - 1, None)
GENERAL = {
    "general.architecture": Key("text"),
    "minimtp.activations": Key("text", default=None),
    "minimtp.rope_scaling": Key("text", default=None),
    "minimtp.draft_depth": Key("whole", 1, MAX_DRAFT_DEPTH, None),
    "split.count": Key("whole", 0, 2**16, 1),
    "tokenizer.ggml.model": Key("text"),
    "tokenizer.ggml.pre": Key("text", default="default"),
    "tokenizer.ggml.tokens": Key("texts", 2, MAX_VOCABULARY),
    "tokenizer.ggml.token_type": Key("wholes", 2, MAX_VOCABULARY, None),
    "tokenizer.ggml.merges": Key("texts", 0, MAX_VOCABULARY, None),
    "tokenizer.ggml.scores": Key("numbers", 2, MAX_VOCABULARY, None),
    "tokenizer.ggml.add_space_prefix": Key("flag", default=True),
    "tokenizer.ggml.bos_token_id": TOKEN_ID,
    "tokenizer.ggml.eos_token_id": TOKEN_ID._replace(default=REQUIRED),
    "tokenizer.ggml.eot_token_id": TOKEN_ID,
    "tokenizer.ggml.eom_token_id": TOKEN_ID,
    "tokenizer.ggml.add_bos_token": Key("flag", default=None),
    "tokenizer.chat_template": Key("text", default=None),
}
SIZES = {  # after the architecture's name and a full stop
    "context_length": Key("whole", 2, 2**20),
    "embedding_length": Key("whole", 2, 2**16),
    "block_count": Key("whole", 1, 1024),
    "feed_forward_length": Key("whole", 1, 2**18),
    "attention.head_count": Key("whole", 1, 1024),
    "attention.head_count_kv": Key("whole", 1, 1024, None),
    "attention.key_length": Key("whole", 2, 2**16, None),
    "attention.value_length": Key("whole", 2, 2**16, None),
    "attention.layer_norm_rms_epsilon": Key("number", 1e-30, 0.1),
    "rope.dimension_count": Key("whole", 2, 2**16, None),
    "rope.freq_base": Key("number", 1.0001, 1e9, 1e4),
    "rope.scaling.type": Key("text", default="none"),
    "rope.scaling.factor": Key("number", 0.001, 1e6, 1.0),
}
HEAD_SIZES = SIZES | {
    "target_layers": Key("wholes", 3, 3),
    "target_hidden_size": Key("whole", 1, 2**16, None),
    "norm_before_residual": Key("flag", default=False),
    "norm_before_fc": Key("flag", default=False),
}
TOKEN_IDS = [key for key in GENERAL if key.endswith("_token_id")]


class Metadata(NamedTuple):
    """Checked values by key. The keys of the architecture are without its name."""

    architecture: str
    general: dict[str, object]
    sizes: dict[str, object]


def is_declared(key: str) -> bool:
    """Return whether `read_metadata` may ask for this key."""
    return key in GENERAL or key.partition(".")[2] in HEAD_SIZES


def read_metadata(file: GgufFile) -> Metadata:
    """Return the declared values of a model's file. Raises UserError for the first one that is
    missing, or is not what minimtp can use.
    """
    general = read_general(file)
    architecture = general["general.architecture"]
    if architecture == HEAD:
        raise UserError(
            f"{file.path} is an EAGLE-3 draft head without its model: give the model, and this "
            "file as --draft"
        )
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{file.path}: unsupported architecture {short(architecture)} "
            f"(supported: {', '.join(ARCHITECTURES)})"
        )
    return _with_sizes(file, general, SIZES)


def read_head_metadata(file: GgufFile) -> Metadata:
    """Return the declared values of the file of a draft head. Raises UserError as `read_metadata`
    does.
    """
    general = read_general(file)
    architecture = general["general.architecture"]
    if architecture != HEAD:
        raise UserError(
            f"{file.path}: {short(architecture)} is not the architecture of a draft head "
            f"(supported: {HEAD})"
        )
    return _with_sizes(file, general, HEAD_SIZES)


def _with_sizes(file: GgufFile, general: dict[str, object], keys: Mapping[str, Key]) -> Metadata:
    architecture = general["general.architecture"]
    if general["split.count"] > 1:
        raise UserError(
            f"{file.path} is one of {general['split.count']} parts of a model: merge them with "
            "llama-gguf-split --merge"
        )
    sizes = _checked(file, keys, f"{architecture}.")
    _check_heads(file, sizes, f"{architecture}.")
    return Metadata(architecture, general, sizes)


def read_general(file: GgufFile) -> dict[str, object]:
    """Return the values that do not depend on the architecture, the vocabulary among them. Raises
    UserError as `read_metadata` does.
    """
    general = _checked(file, GENERAL, "")
    _check_vocabulary(file, general)
    return general


def _checked(file: GgufFile, keys: Mapping[str, Key], prefix: str) -> dict[str, object]:
    values = {}
    for name, declared in keys.items():
        found = file.metadata.get(prefix + name)
        if found is None:
            if declared.default is REQUIRED:
                raise UserError(
                    f"{file.path} does not contain {prefix}{name}, so it is not complete: "
                    "give another file"
                )
            values[name] = declared.default
        elif declared.accepts(found):
            values[name] = found.value
        else:
            raise _wrong(file, prefix + name, found.value, str(declared))
    return values


def _check_vocabulary(file: GgufFile, general: Mapping[str, object]) -> None:
    tokens: Sequence[str] = general["tokenizer.ggml.tokens"]
    types: np.ndarray | None = general["tokenizer.ggml.token_type"]
    if types is not None and len(types) != len(tokens):
        needed = f"as long as the {len(tokens)} tokens"
        raise _wrong(file, "tokenizer.ggml.token_type", types, needed)
    scores: np.ndarray | None = general["tokenizer.ggml.scores"]
    if scores is not None and len(scores) != len(tokens):
        needed = f"as long as the {len(tokens)} tokens"
        raise _wrong(file, "tokenizer.ggml.scores", scores, needed)
    for key in TOKEN_IDS:
        if general[key] is not None and general[key] >= len(tokens):
            raise _wrong(file, key, general[key], f"one of the tokens 0 to {len(tokens) - 1}")


def _check_heads(file: GgufFile, sizes: Mapping[str, object], prefix: str) -> None:
    heads, hidden = sizes["attention.head_count"], sizes["embedding_length"]
    head_dim = sizes["attention.key_length"] or hidden // heads
    if (sizes["attention.key_length"] is None and hidden % heads) or head_dim % 2 or not head_dim:
        raise _wrong(
            file, f"{prefix}attention.head_count", heads,
            f"a divisor of the {hidden} numbers of {prefix}embedding_length, with an even result",
        )  # fmt: skip
    kv_heads = sizes["attention.head_count_kv"]
    if kv_heads is not None and heads % kv_heads:
        raise _wrong(
            file, f"{prefix}attention.head_count_kv", kv_heads, f"a divisor of the {heads} heads"
        )
    for key in ("rope.dimension_count", "attention.value_length"):
        if sizes[key] not in (None, head_dim):
            raise UserError(
                f"{file.path}: {prefix}{key} {sizes[key]} is not supported (supported: {head_dim}, "
                "the numbers in a head): give another file"
            )


def _wrong(file: GgufFile, key: str, found: object, needed: str) -> UserError:
    return UserError(
        f"{file.path}: {key} is {short(found)}, but must be {needed}: give another file"
    )
