"""Vocabularies of pieces: `tokenizer.ggml.model` "llama", from SentencePiece.

The file holds no merges but a score for each piece. llama.cpp joins, again and again, the two
neighbours that give the piece with the highest score. That is a merge list: all ways to cut each
piece into two others, in the order of the scores. In the other direction any scores that fall along
the merge list do the same.
"""

from collections.abc import Sequence
from typing import Any

from minimtp.training.tokenizers.spellings import SPACE

MODEL = "llama"
PRE = "pieces"  # instead of the name of a pre-tokenizer
NORMAL, BYTE = 1, 6
NEVER_MERGED = -1e6  # the score of a piece that no merge makes


def merges_from(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> list[str]:
    """Return the merges, the first ones first, as "LEFT RIGHT"."""
    ids = {name: i for i, name in enumerate(tokens) if types[i] == NORMAL}
    found = []
    for name, token in ids.items():
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in ids and right in ids:
                found.append((-scores[token], ids[left], ids[right], f"{left} {right}"))
    return [merge for *_, merge in sorted(found)]


def scores_from(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Return a score for each token that gives these merges."""
    best: dict[str, float] = {}
    for rank, merge in enumerate(merges):
        best.setdefault(merge.replace(" ", "", 1), float(-rank))
    return [best.get(name, NEVER_MERGED) for name in tokens]


def stages(prefix: bool) -> dict[str, Any]:
    """Return what a `tokenizer.json` for pieces has around its model."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
    }
