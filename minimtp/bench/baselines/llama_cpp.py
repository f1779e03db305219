"""Decode the same weights in llama.cpp, as a baseline: through a GGUF file and its C functions.

llama.cpp runs on the CPU with one thread, as minimtp decodes, and otherwise with its default
settings. It repacks the weights for the processor while it loads them. It stores keys and values in
float16, and computes attention with its fused kernel if it can.

This is the only file that imports llama_cpp, and only when a decoder is created. Some C functions
were renamed between versions. `_Functions` gives each of them one name.
"""

import ctypes
import functools
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from minimtp import extras
from minimtp.backend import numpy as np
from minimtp.decode.target import ForwardOutput
from minimtp.formats.gguf.writer import write_gguf
from minimtp.model.transformer import LanguageModel
from minimtp.training.data.tokenizer import ByteTokenizer

GGML_TYPE_F32 = 0
FLASH_ATTENTION_DISABLED = 0
MAX_TOKEN_BYTES = 256

Handle = TypeVar("Handle")


class LlamaDecoder:
    """A GGUF file decoded by llama.cpp: a `Target` (decode/target.py).

    exact: use float32 keys and values, and no fused attention. This is slower for long sequences,
    but rounds nowhere that minimtp does not round. Raises ImportError if llama_cpp cannot be used,
    OSError if llama.cpp cannot load the file.
    """

    def __init__(self, path: str | Path, exact: bool = False) -> None:
        self.api = api = _library()
        functions = _Functions(api)
        settings = api.llama_model_default_params()
        settings.n_gpu_layers = 0
        self.model = model = functions.load_model(str(path).encode(), settings)
        if not model:
            raise OSError(f"llama.cpp cannot load {path}")
        weakref.finalize(self, functions.free_model, model)
        self.vocabulary = functions.vocabulary_of(model)
        self.vocabulary_size = functions.vocabulary_size(self.vocabulary)
        self.context_length = functions.context_length(model)
        self.max_rows, self.length = self.context_length, 0

        settings = api.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = self.context_length
        settings.n_threads = settings.n_threads_batch = 1
        if exact:
            settings.type_k = settings.type_v = GGML_TYPE_F32
            # Versions without this setting do not use flash attention by default.
            settings.flash_attn_type = FLASH_ATTENTION_DISABLED
        self.context = context = functions.create_context(model, settings)
        if not context:
            raise OSError(
                f"llama.cpp cannot create a context of {self.context_length} tokens for {path}"
            )
        self.batch = api.llama_batch_init(self.context_length, 0, 1)
        # Finalizers run in reverse order of creation, so the context is freed before its model.
        weakref.finalize(self, api.llama_free, context)
        weakref.finalize(self, api.llama_batch_free, self.batch)
        memory = functions.memory_of(context)
        self._drop_from = lambda first: functions.remove_rows(memory, 0, first, -1)

    @classmethod
    def of(cls, model: LanguageModel, exact: bool = False) -> "LlamaDecoder":
        """Return a decoder of the trunk of `model`, through a temporary file.

        Raises UserError if GGUF cannot store the model.
        """
        folder = tempfile.TemporaryDirectory(prefix="minimtp-", ignore_cleanup_errors=True)
        path = Path(folder.name, "trunk.gguf")
        write_gguf(path, model, ByteTokenizer(), "trunk")
        decoder = cls(path, exact)
        decoder._folder = folder  # the file stays memory-mapped while the decoder exists
        return decoder

    def truncate(self, length: int) -> None:
        """Drop all cache rows from `length` on."""
        if length < self.length:
            self._drop_from(length)
        self.length = length

    def forward(self, tokens: np.ndarray) -> ForwardOutput:
        """Feed (T,) integers after the cached rows. Raises ValueError if they do not fit."""
        rows, start = len(tokens), self.length
        if start + rows > self.context_length:
            raise ValueError(
                f"{rows} tokens after {start} do not fit a context of {self.context_length}"
            )
        self._fill_batch(tokens, start)
        status = self.api.llama_decode(self.context, self.batch)
        if status != 0:
            raise RuntimeError(f"llama_decode failed with status {status}")
        self.length = start + rows
        logits = np.empty((rows, self.vocabulary_size), np.float32)
        for row in range(rows):
            pointer = self.api.llama_get_logits_ith(self.context, row)
            logits[row] = np.ctypeslib.as_array(pointer, (self.vocabulary_size,))
        return ForwardOutput(logits, logits[:, :0])  # no drafter reads hidden states

    def _fill_batch(self, tokens: np.ndarray, start: int) -> None:
        batch = self.batch
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row] = int(token)
            batch.pos[row] = start + row
            batch.logits[row] = True
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = 0

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of llama.cpp's own tokenizer.

        Special tokens that occur in the text are treated as ordinary text.
        """
        raw = text.encode()
        room = len(raw) + 8
        found = (ctypes.c_int32 * room)()
        count = self.api.llama_tokenize(self.vocabulary, raw, len(raw), found, room, True, False)
        if count < 0:
            raise RuntimeError(f"llama_tokenize failed with {count} for {len(raw)} bytes")
        return found[:count]

    def piece(self, token: int) -> bytes:
        """Return the bytes that llama.cpp prints for a token: none for a special token."""
        written = ctypes.create_string_buffer(MAX_TOKEN_BYTES)
        count = self.api.llama_token_to_piece(
            self.vocabulary, token, written, MAX_TOKEN_BYTES, 0, False
        )
        return written.raw[: max(count, 0)]


class _Functions:
    """The C functions that have different names in different versions of llama_cpp.

    Raises ImportError if the installed version has none of the known names of a function.
    """

    def __init__(self, api: ModuleType) -> None:
        def first(*names: str, otherwise: Callable | None = None) -> Callable:
            """Return the first of these functions that `api` has. The newest name comes first."""
            found = [available[name] for name in names if name in available]
            if not found and otherwise is None:
                raise ImportError(f"this version of llama_cpp has none of {', '.join(names)}")
            return found[0] if found else otherwise

        available = vars(api)
        self.load_model = first("llama_model_load_from_file", "llama_load_model_from_file")
        self.free_model = first("llama_model_free", "llama_free_model")
        self.context_length = first("llama_model_n_ctx_train", "llama_n_ctx_train")
        self.create_context = first("llama_init_from_model", "llama_new_context_with_model")
        # Older functions take the model instead of its vocabulary ...
        self.vocabulary_of = first("llama_model_get_vocab", otherwise=_same)
        self.vocabulary_size = first("llama_vocab_n_tokens", "llama_n_vocab")
        # ... and the context instead of its memory, which is the KV cache.
        self.memory_of = first("llama_get_memory", otherwise=_same)
        if self.memory_of is _same:
            self.remove_rows = first("llama_kv_self_seq_rm", "llama_kv_cache_seq_rm")
        else:
            self.remove_rows = first("llama_memory_seq_rm")


def _same(handle: Handle) -> Handle:
    return handle


def _library() -> ModuleType:
    """Import llama_cpp, and suppress its log messages."""
    llama_cpp, obstacle = extras.find("llama_cpp")
    if llama_cpp is None:
        raise ImportError(f"llama_cpp {obstacle}")
    llama_cpp.llama_log_set(_silent_log(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@functools.cache  # C calls this function until the process ends, so it must never be freed
def _silent_log(api: ModuleType) -> Callable:
    return api.llama_log_callback(lambda level, text, data: None)
