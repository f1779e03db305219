"""Decode the same weights in llama.cpp: in this process if the package is installed here, and
otherwise in the process of another Python.

llama_cpp is imported only when a decoder is created. session.py says with which settings llama.cpp
runs.
"""

import importlib.util
import os
import tempfile
import weakref
from pathlib import Path
from types import ModuleType

from minimtp import extras
from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.process import VARIABLE, LlamaProcess
from minimtp.bench.baselines.llama_cpp.session import Session, prepare
from minimtp.decode.target import ForwardOutput
from minimtp.formats.gguf.writer import write_gguf
from minimtp.model.tokenizer import Tokenizer
from minimtp.model.transformer import LanguageModel
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer


def decoder_of(
    model: LanguageModel,
    tokenizer: Tokenizer | None = None,
    *,
    exact: bool = False,
    context: int | None = None,
) -> "LlamaDecoder | LlamaProcess":
    """Return a decoder of the trunk of `model` in llama.cpp, through a temporary file.

    tokenizer: that of the model (None: the tokens are bytes). exact, context: see `Session`.
    Raises UserError if GGUF cannot store the model, and otherwise as `LlamaDecoder` and
    `LlamaProcess` do.
    """
    here = not os.environ.get(VARIABLE) and importlib.util.find_spec("llama_cpp") is not None
    decoder = LlamaDecoder if here else LlamaProcess
    with tempfile.TemporaryDirectory(prefix="minimtp-") as folder:
        path = Path(folder, "trunk.gguf")
        write_gguf(path, model, tokenizer or ByteTokenizer(), "trunk")
        return decoder(path, exact=exact, context=context)


class LlamaDecoder:
    """A GGUF file decoded by llama.cpp: a `Target` (decode/target.py).

    threads, context, exact: see `Session`. Raises ImportError if llama_cpp cannot be used, OSError
    if llama.cpp cannot load the file.
    """

    def __init__(
        self, path: str | Path, *, exact: bool = False, threads: int = 1, context: int | None = None
    ) -> None:
        self.session = session = Session(library(), str(path), threads, context, exact)
        weakref.finalize(self, session.close)
        self.vocabulary_size, self.context_length = session.vocabulary_size, session.context_length
        self.max_rows = session.max_rows

    @property
    def length(self) -> int:
        """The number of rows in the cache."""
        return self.session.length

    def truncate(self, length: int) -> None:
        """Drop all cache rows from `length` on."""
        self.session.truncate(length)

    def forward(self, tokens: np.ndarray) -> ForwardOutput:
        """Feed (T,) integers after the cached rows. Raises ValueError if they do not fit."""
        logits = np.empty((len(tokens), self.vocabulary_size), np.float32)
        self.session.forward(tokens, logits)
        return ForwardOutput(logits, logits[:, :0])  # no drafter reads hidden states

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Return the tokens of llama.cpp's own tokenizer. See `Session.tokenize`."""
        return self.session.tokenize(text.encode(), special)

    def piece(self, token: int) -> bytes:
        """Return the bytes that llama.cpp prints for a token: none for a special token."""
        return self.session.piece(token)


def library() -> ModuleType:
    """Import llama_cpp, and suppress its log messages. Raises ImportError if it cannot be used."""
    llama_cpp, obstacle = extras.find("llama_cpp")
    if llama_cpp is None:
        raise ImportError(f"llama_cpp {obstacle}")
    prepare(llama_cpp)
    return llama_cpp
