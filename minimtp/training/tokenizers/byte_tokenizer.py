"""The built-in tokenizer: token = byte.

It needs no training, every text can be encoded, and predicting several tokens ahead gains most on
bytes.
"""

from collections.abc import Mapping, Sequence

from minimtp.backend import numpy as np
from minimtp.errors import utf8


class ByteTokenizer:
    """Token = byte; 256 ends a document."""

    vocabulary_size = 257
    end_token = 256
    end_tokens = (256,)
    begin_tokens = ()
    prompt_prefix = ""
    special_tokens: Mapping[str, int] = {}
    chat_template = None

    def encode(self, text: str | bytes, special: bool = False) -> np.ndarray:
        return np.frombuffer(utf8(text, "the text"), np.uint8).astype(np.int64)

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return bytes(int(token) for token in tokens if int(token) != self.end_token)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def spell(self, tokens: Sequence[int]) -> bytes:
        return self.decode_bytes(tokens)

    def byte_counts(self) -> np.ndarray:
        counts = np.ones(self.vocabulary_size, np.int64)
        counts[self.end_token] = 0
        return counts

    def to_dict(self) -> dict[str, object]:
        return {"kind": "bytes"}
