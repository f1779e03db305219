"""Which documents of a corpus are held out, and the fingerprint of a text: see corpus.py."""

import hashlib

from minimtp.training.data.folders import Texts


def fingerprint(documents: Texts) -> str:
    """Return the sha256 over all names and contents, each preceded by its length."""
    digest = hashlib.sha256()
    for name, content in documents:
        for part in (name.encode("utf-8", "surrogateescape"), content):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def split(documents: Texts) -> tuple[str, list[bytes], list[bytes]]:
    """Return the kind of split, "by file" or "by position", and the contents of both sides."""
    validation = [content for name, content in documents if is_held_out(name)]
    training = [content for name, content in documents if not is_held_out(name)]
    total = sum(len(content) for _, content in documents)
    if 0.02 * total < sum(map(len, validation)) < 0.3 * total:
        return "by file", training, validation
    training, validation, left = [], [], total - total // 10
    for _, content in documents:
        if left > 0:
            training.append(content[:left])
        if left < len(content):
            validation.append(content[max(0, left) :])
        left -= len(content)
    return "by position", training, validation


def is_held_out(name: str) -> bool:
    """Return whether a split by file puts the file of this name on the validation side."""
    return (
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest(), "big") % 10
        == 0
    )
