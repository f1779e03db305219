"""The same decoding in llama.cpp, to be measured beside ours: the same weights as a GGUF file,
through its C functions.

One thread, as minimtp decodes, on the CPU, and otherwise as llama.cpp comes: it lays blocks out
anew for this processor when it loads them, keeps keys and values in float16, and computes attention
over them in one piece where it can.

The only file that imports llama_cpp, and not before a peer is made. Its functions were renamed more
than once; a name that an older version has stands behind the newer one.
"""

import ctypes
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from minimtp.backend import numpy as np
from minimtp.decode.target import ForwardOutput
from minimtp.formats.gguf.writer import write_gguf
from minimtp.model.transformer import LanguageModel
from minimtp.training.data.tokenizer import ByteTokenizer

F32 = 0  # of enum ggml_type


class LlamaDecoder:
    """A GGUF file decoding in llama.cpp: a `Target` of decode/generation.py.

    exact: keys and values in float32, and attention step by step: slower for long texts, and no
    rounding that ours has not. Raises ImportError where llama_cpp cannot be used, OSError for a
    file that llama.cpp does not load.
    """

    def __init__(self, path: str | Path, exact: bool = False) -> None:
        self.api = api = _library()
        settings = api.llama_model_default_params()
        settings.n_gpu_layers = 0
        load = _function(api, "llama_model_load_from_file", "llama_load_model_from_file")
        self.model = model = load(str(path).encode(), settings)
        if not model:
            raise OSError(f"llama.cpp does not load {path}")
        free_model = _function(api, "llama_model_free", "llama_free_model")
        weakref.finalize(self, free_model, model)
        self.vocabulary = _function(api, "llama_model_get_vocab", default=lambda model: model)(
            model
        )
        self.vocabulary_size = _function(api, "llama_vocab_n_tokens", "llama_n_vocab")(
            self.vocabulary
        )
        self.context_length = _function(api, "llama_model_n_ctx_train", "llama_n_ctx_train")(model)
        self.max_rows, self.length = self.context_length, 0

        settings = api.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = self.context_length
        settings.n_threads = settings.n_threads_batch = 1
        if exact:
            settings.type_k = settings.type_v = F32
            settings.flash_attn_type = (
                0  # older versions have it switched off, and know this name not
            )
        self.context = context = _function(
            api, "llama_init_from_model", "llama_new_context_with_model"
        )(model, settings)
        if not context:
            raise OSError(f"llama.cpp makes no context of {self.context_length} tokens for {path}")
        self.batch = api.llama_batch_init(self.context_length, 0, 1)
        # Finalizers run in the opposite order of their making: the context goes before its model.
        weakref.finalize(self, api.llama_free, context)
        weakref.finalize(self, api.llama_batch_free, self.batch)
        if hasattr(api, "llama_get_memory"):
            memory = api.llama_get_memory(context)
            self._forget = lambda first: api.llama_memory_seq_rm(memory, 0, first, -1)
        else:
            remove = _function(api, "llama_kv_self_seq_rm", "llama_kv_cache_seq_rm")
            self._forget = lambda first: remove(context, 0, first, -1)

    @classmethod
    def of(cls, model: LanguageModel, exact: bool = False) -> "LlamaDecoder":
        """The trunk of a model of ours, by way of a temporary file. Raises UserError for one that
        GGUF cannot hold."""
        folder = tempfile.TemporaryDirectory(prefix="minimtp-", ignore_cleanup_errors=True)
        path = Path(folder.name, "trunk.gguf")
        write_gguf(path, model, ByteTokenizer(), "trunk")
        decoder = cls(path, exact)
        decoder._folder = folder  # the file is mapped for as long as the decoder lives
        return decoder

    def truncate(self, length: int) -> None:
        """Forget the positions at and beyond `length`."""
        if length < self.length:
            self._forget(length)
        self.length = length

    def forward(self, tokens: np.ndarray) -> ForwardOutput:
        """Feed (T,) integers behind the cached positions. Raises ValueError when they do not fit
        the context."""
        batch, rows, start = self.batch, len(tokens), self.length
        if start + rows > self.context_length:
            raise ValueError(
                f"{rows} tokens behind {start} do not fit a context of {self.context_length}"
            )
        batch.n_tokens = rows
        for row in range(rows):
            batch.token[row], batch.pos[row], batch.logits[row] = (
                int(tokens[row]),
                start + row,
                True,
            )
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
        status = self.api.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gives {status}")
        self.length = start + rows
        logits = np.empty((rows, self.vocabulary_size), np.float32)
        for row in range(rows):
            logits[row] = np.ctypeslib.as_array(
                self.api.llama_get_logits_ith(self.context, row), (self.vocabulary_size,)
            )
        return ForwardOutput(logits, logits[:, :0])  # nothing drafts from hidden states

    def tokenize(self, text: str) -> list[int]:
        """A text's tokens by llama.cpp's own tokenizer; marks such as the end are no marks in
        it."""
        raw = text.encode()
        room = len(raw) + 8
        found = (ctypes.c_int32 * room)()
        count = self.api.llama_tokenize(self.vocabulary, raw, len(raw), found, room, True, False)
        if count < 0:
            raise RuntimeError(f"llama_tokenize gives {count} for {len(raw)} bytes")
        return found[:count]

    def piece(self, token: int) -> bytes:
        """The bytes that llama.cpp writes for a token; nothing for marks."""
        room = 256
        written = ctypes.create_string_buffer(room)
        count = self.api.llama_token_to_piece(self.vocabulary, token, written, room, 0, False)
        return written.raw[: max(count, 0)]


def _library() -> ModuleType:
    """llama_cpp, and nothing of what it says while it loads."""
    import llama_cpp

    llama_cpp.llama_log_set(_silence(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def _silence(api: ModuleType) -> object:
    """A log that keeps nothing; C calls it for as long as the process lives, so it has to live as
    long."""
    if not _kept:
        _kept.append(api.llama_log_callback(lambda level, text, data: None))
    return _kept[0]


_kept: list[object] = []


def _function(api: ModuleType, *names: str, default: Callable | None = None) -> Callable:
    """The first of these functions that this version of llama_cpp has."""
    for name in names:
        if hasattr(api, name):
            return getattr(api, name)
    if default is None:
        raise ImportError(f"this version of llama_cpp has none of {', '.join(names)}")
    return default
