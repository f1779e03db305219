"""A GGUF file loaded by llama.cpp, through the C functions of the package llama_cpp.

llama.cpp runs on the CPU and otherwise with its default settings. It repacks the weights for the
processor while it loads them, stores keys and values in float16, and computes attention with its
fused kernel if it can. Two settings differ. The file is read and not mapped into memory, so that
the memory of the process contains the weights once. And the context, and with it the cache, may be
shorter than the model's.

Some C functions were renamed between versions. `Functions` gives each of them one name.

**As a script**, this file serves a session to another process (process.py). It must not import
minimtp, because the Python that runs it may have only llama_cpp and NumPy. A request is a line of
JSON on the standard input: {"do": one of REQUESTS, ...}. The answer is a line of JSON on the
standard output, {"error": ...} after a failure. Logits are written to a file that both processes
map into memory.
"""

import ctypes
import functools
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TypeVar

import numpy as np  # the backend of minimtp cannot be imported here

GGML_TYPE_F32 = 0
FLASH_ATTENTION_DISABLED = 0
MAX_TOKEN_BYTES = 256
MAX_ROWS = 512  # per forward pass; llama.cpp's own default

Handle = TypeVar("Handle")


class Session:
    """A model, its context and its cache.

    api: the module llama_cpp. threads: of llama.cpp. context: tokens in the cache, at most the
    model's context (None: all of it).
    exact: use float32 keys and values, and no fused attention. This is slower for long sequences,
    but rounds nowhere that minimtp does not round.
    Raises OSError if llama.cpp cannot load the file.
    """

    def __init__(
        self,
        api: ModuleType,
        path: str,
        threads: int = 1,
        context: int | None = None,
        exact: bool = False,
    ) -> None:
        self.model = self.context = None
        self.api, self.functions = api, Functions(api)
        settings = api.llama_model_default_params()
        settings.n_gpu_layers, settings.use_mmap = 0, False
        self.model = self.functions.load_model(str(path).encode(), settings)
        if not self.model:
            raise OSError(f"llama.cpp cannot load {path}")
        self.vocabulary = self.functions.vocabulary_of(self.model)
        self.vocabulary_size = self.functions.vocabulary_size(self.vocabulary)
        longest = self.functions.context_length(self.model)
        self.context_length = min(context or longest, longest)
        self.max_rows, self.length = min(self.context_length, MAX_ROWS), 0

        settings = api.llama_context_default_params()
        settings.n_ctx = self.context_length
        settings.n_batch = settings.n_ubatch = self.max_rows
        settings.n_threads = settings.n_threads_batch = threads
        if exact:
            settings.type_k = settings.type_v = GGML_TYPE_F32
            # Versions without this setting do not use flash attention by default.
            settings.flash_attn_type = FLASH_ATTENTION_DISABLED
        self.context = self.functions.create_context(self.model, settings)
        if not self.context:
            raise OSError(
                f"llama.cpp cannot create a context of {self.context_length} tokens for {path}"
            )
        self.batch = api.llama_batch_init(self.max_rows, 0, 1)
        self.memory = self.functions.memory_of(self.context)

    def close(self) -> None:
        """Free the memory of llama.cpp."""
        if self.context:
            self.api.llama_batch_free(self.batch)
            self.api.llama_free(self.context)
        if self.model:
            self.functions.free_model(self.model)
        self.model = self.context = None

    def truncate(self, length: int) -> None:
        """Drop all cache rows from `length` on."""
        if length < self.length:
            self.functions.remove_rows(self.memory, 0, length, -1)
        self.length = length

    def forward(self, tokens: Sequence[int], out: np.ndarray) -> None:
        """Feed tokens after the cached rows, and write the logits of the last M of them to `out`
        (M, V).

        Raises ValueError if they do not fit the context.
        """
        rows, first_wanted = len(tokens), len(tokens) - len(out)
        if self.length + rows > self.context_length:
            raise ValueError(
                f"{rows} tokens after {self.length} do not fit a context of {self.context_length}"
            )
        for start in range(0, rows, self.max_rows):
            some = tokens[start : start + self.max_rows]
            wanted = range(max(first_wanted - start, 0), len(some))
            self._fill_batch(some, wanted)
            status = self.api.llama_decode(self.context, self.batch)
            if status != 0:
                raise RuntimeError(f"llama_decode failed with status {status}")
            self.length += len(some)
            for row in wanted:
                out[start + row - first_wanted] = self._logits(row)

    def _logits(self, row: int) -> np.ndarray:
        pointer = self.api.llama_get_logits_ith(self.context, row)
        kind = ctypes.c_float * self.vocabulary_size
        return np.frombuffer(kind.from_address(ctypes.addressof(pointer.contents)), np.float32)

    def _fill_batch(self, tokens: Sequence[int], wanted: range) -> None:
        batch = self.batch
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row] = int(token)
            batch.pos[row] = self.length + row
            batch.logits[row] = row in wanted
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = 0

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> tuple[list[int], float, float]:
        """Return the new tokens, the seconds until the first of them, and the seconds of the rest.
        No token ends the text.
        """
        self.truncate(0)
        logits = np.empty((1, self.vocabulary_size), np.float32)
        began = time.perf_counter()
        self.forward(prompt, logits)
        tokens = [int(logits[0].argmax())]
        after_prompt = time.perf_counter()
        while len(tokens) < max_new_tokens:
            self._fill_batch(tokens[-1:], range(1))
            status = self.api.llama_decode(self.context, self.batch)
            if status != 0:
                raise RuntimeError(f"llama_decode failed with status {status}")
            self.length += 1
            tokens.append(int(self._logits(0).argmax()))
        return tokens, after_prompt - began, time.perf_counter() - after_prompt

    def tokenize(self, text: bytes, special: bool = False) -> list[int]:
        """Return the tokens of llama.cpp's own tokenizer for a prompt in UTF-8.

        special: names of special tokens become these tokens. Otherwise they are ordinary text.
        """
        room = len(text) + 8
        found = (ctypes.c_int32 * room)()
        count = self.api.llama_tokenize(
            self.vocabulary, text, len(text), found, room, True, special
        )
        if count < 0:
            raise RuntimeError(f"llama_tokenize failed with {count} for {len(text)} bytes")
        return found[:count]

    def piece(self, token: int) -> bytes:
        """Return the bytes that llama.cpp prints for a token: none for a special token."""
        written = ctypes.create_string_buffer(MAX_TOKEN_BYTES)
        count = self.api.llama_token_to_piece(
            self.vocabulary, token, written, MAX_TOKEN_BYTES, 0, False
        )
        return written.raw[: max(count, 0)]


class Functions:
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


def prepare(api: ModuleType) -> None:
    """Suppress the log messages of llama.cpp, and let it prepare itself."""
    api.llama_log_set(_silent_log(api), ctypes.c_void_p(0))
    api.llama_backend_init()


@functools.cache  # C calls this function until the process ends, so it must never be freed
def _silent_log(api: ModuleType) -> Callable:
    return api.llama_log_callback(lambda level, text, data: None)


class Server:
    """Answers requests about one session. Each method is a request, and returns the answer."""

    def __init__(self) -> None:
        self.api = importlib.import_module("llama_cpp")
        prepare(self.api)
        self.before = resident_bytes()

    def version(self) -> dict[str, object]:
        return {"version": str(getattr(self.api, "__version__", "unknown"))}

    def open(self, path: str, shared: str, **settings: object) -> dict[str, object]:
        """Load a file. shared: the file for the logits, of MAX_ROWS rows at most."""
        began = time.perf_counter()
        self.session = session = Session(self.api, path, **settings)
        seconds = time.perf_counter() - began
        with open(shared, "wb") as file:
            file.truncate(4 * session.max_rows * session.vocabulary_size)
        shape = session.max_rows, session.vocabulary_size
        self.logits = np.memmap(shared, np.float32, "r+", shape=shape)
        return self.version() | {
            "vocabulary_size": session.vocabulary_size, "context_length": session.context_length,
            "max_rows": session.max_rows, "seconds": seconds,
        }  # fmt: skip

    def forward(self, tokens: list[int], start: int) -> dict[str, object]:
        """Write the logits of each token, at most MAX_ROWS, after the first `start` rows."""
        self.session.truncate(start)
        self.session.forward(tokens, self.logits[: len(tokens)])
        return {}

    def greedy(self, prompt: list[int], max_new_tokens: int) -> dict[str, object]:
        tokens, prompt_seconds, seconds = self.session.greedy(prompt, max_new_tokens)
        return {"tokens": tokens, "prompt_seconds": prompt_seconds, "seconds": seconds}

    def tokenize(self, text: str, special: bool) -> dict[str, object]:
        return {"tokens": self.session.tokenize(text.encode(), special)}

    def piece(self, token: int) -> dict[str, object]:
        return {"bytes": [*self.session.piece(token)]}

    def memory(self) -> dict[str, object]:
        now = resident_bytes("VmRSS")
        return {"peak": resident_bytes(), "before": self.before, "now": now}


REQUESTS = ("version", "open", "forward", "greedy", "tokenize", "piece", "memory")


def resident_bytes(field: str = "VmHWM") -> int | None:
    """Return the peak resident memory of this process, or None where the system does not tell.

    field: of Linux. VmRSS is the memory now. Other systems tell the peak only.
    """
    try:
        with open("/proc/self/status") as file:
            (kilobytes,) = (line.split()[1] for line in file if line.startswith(f"{field}:"))
        return 1024 * int(kilobytes)
    except (OSError, ValueError):  # not Linux. There, getrusage counts the parent before exec too
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def serve() -> None:
    """Answer the requests on the standard input, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints must not be mixed with the answers
    server = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            server = server or Server()
            name = request.pop("do")
            answer = getattr(server, name)(**request) if name in REQUESTS else None
        except (Exception, SystemExit) as error:  # whatever the package's own code does
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve()
