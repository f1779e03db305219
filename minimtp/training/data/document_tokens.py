"""The tokens of a corpus: each document begins and ends as the tokenizer says."""

from minimtp.backend import numpy as np
from minimtp.errors import naming
from minimtp.quoting import shown_path
from minimtp.training.data.folders import Texts
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from minimtp.training.tokenizers.tokenizer import Tokenizer


def tokens_of(contents: list[bytes], tokenizer: Tokenizer) -> np.ndarray:
    """Return the tokens of the documents, one after another, in the smallest type.

    Raises UserError for a text that the tokenizer cannot express.
    """
    small = np.uint16 if tokenizer.vocabulary_size <= 2**16 else np.uint32
    if isinstance(tokenizer, ByteTokenizer):
        return _byte_tokens(contents, tokenizer.end_token, small)
    begin = np.array(tokenizer.begin_tokens, small)
    end = np.array([tokenizer.end_token], small)
    parts = [
        part
        for content in contents
        for part in (begin, tokenizer.encode(content).astype(small), end)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, small)


def require_expressible(documents: Texts, tokenizer: Tokenizer) -> None:
    """Raise UserError, which names the file, for a text that the tokenizer cannot express."""
    for name, content in documents:
        with naming(shown_path(name)):
            tokenizer.encode(content)


def _byte_tokens(contents: list[bytes], end_token: int, dtype: type) -> np.ndarray:
    """Return the tokens of the byte tokenizer, without copies in 64 bits."""
    tokens = np.full(sum(map(len, contents)) + len(contents), end_token, dtype)
    place = 0
    for content in contents:
        tokens[place : place + len(content)] = np.frombuffer(content, np.uint8)
        place += len(content) + 1
    return tokens
