"""The patterns that cut a text into words before merging, by llama.cpp's names for them.

`tokenizer.ggml.pre` in a file names the family that a vocabulary comes from. Each family applies
one or more patterns, one after another. A file of the `tokenizers` library holds the patterns
themselves. `pre_tokenizer_named` and `name_of` translate between the two.

The patterns are those of the original tokenizers. llama.cpp lists them in src/llama-vocab.cpp.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDINGS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
LLAMA3 = rf"{CONTRACTIONS}|{LETTERS}|\p{{N}}{{1,3}}|{SYMBOLS}|{ENDINGS}"
QWEN2 = rf"{CONTRACTIONS}|{LETTERS}|\p{{N}}|{SYMBOLS}|{ENDINGS}"
MARKS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"  # letters with the marks that combine with them
QWEN35 = rf"{CONTRACTIONS}|{MARKS}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{ENDINGS}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
TEKKEN = rf"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*|\p{{N}}|{PATHS}|{ENDINGS}"
GPT4O = (
    rf"{BEFORE}{UPPER}*{LOWER}+{CONTRACTIONS}?|{BEFORE}{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{PATHS}|{ENDINGS}"
)


class PreTokenizer(NamedTuple):
    """patterns: applied one after another. whole_words: a word that is a token is not merged from
    its letters. begins: the begin token is added unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False


FAMILIES = {  # the first name is the one that is written
    ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "modern-bert"): PreTokenizer(
        (GPT2,)
    ),
    (
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
    ): PreTokenizer((DIGIT, GPT2)),
    (
        "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2",
    ): PreTokenizer((LLAMA3,), whole_words=True, begins=True),
    ("dbrx", "smaug-bpe"): PreTokenizer((LLAMA3,)),
    (
        "qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2",
    ): PreTokenizer((QWEN2,)),
    ("qwen35",): PreTokenizer((QWEN35,)),
    ("tekken",): PreTokenizer((TEKKEN,), whole_words=True, begins=True),
    ("gpt-4o", "llama4"): PreTokenizer((GPT4O,)),
}  # fmt: skip
SUPPORTED = [names[0] for names in FAMILIES]


def pre_tokenizer_named(name: str) -> PreTokenizer | None:
    """Return the pre-tokenizer with llama.cpp's name, or None if it is not supported."""
    return next((found for names, found in FAMILIES.items() if name in names), None)


def name_of(stage: object, whole_words: bool) -> str | None:
    """Return llama.cpp's name for the pre-tokenizer of a `tokenizer.json`, or None."""
    patterns = tuple(_patterns(stage))
    for names, found in FAMILIES.items():
        if (found.patterns, found.whole_words) == (patterns, whole_words):
            return names[0]
    return None


def as_stage(found: PreTokenizer) -> dict[str, Any]:
    """Return the pre-tokenizer of a `tokenizer.json`."""
    *first, last = found.patterns
    stages = [_split(pattern) for pattern in first]
    if last != GPT2:
        stages.append(_split(last))
    stages.append(byte_level(use_regex=last == GPT2))
    return stages[0] if len(stages) == 1 else {"type": "Sequence", "pretokenizers": stages}


def byte_level(use_regex: bool) -> dict[str, Any]:
    """Return the stage that spells bytes as characters, and may apply GPT-2's pattern before."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _patterns(stage: object) -> Iterator[str | None]:
    """Yield the patterns that a stage applies; None for one that is unknown."""
    match stage:
        case {"type": "Sequence", "pretokenizers": [*stages]}:
            for member in stages:
                yield from _patterns(member)
        case {"type": "ByteLevel"}:
            if stage.get("use_regex", True):
                yield GPT2
        case {"type": "Digits", "individual_digits": True}:
            yield DIGIT
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"}:
            yield pattern
        case _:
            yield None
