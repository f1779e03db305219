"""llama.cpp in a process of its own, with one GGUF file.

The package llama_cpp may be installed in another Python than minimtp's, because it is compiled on
installation and often needs an environment of its own. MINIMTP_LLAMA_CPP_PYTHON names that Python,
for instance /opt/llama/bin/python. It needs llama_cpp and NumPy, and nothing of minimtp.

    find_llama()                       which Python runs llama.cpp, or why none does
    LlamaProcess(path, threads=1)      a loaded file: a `Target` (decode/target.py), which can also
                                       continue prompts without this process in the loop

A forward pass takes about 0.05 ms more than in this process: the request, and a copy of the logits.
`greedy` has no such cost, so it is the one to compare speeds with.
"""

import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp import session
from minimtp.decode.target import ForwardOutput
from minimtp.errors import MeasurementFailed, UserError, shown

VARIABLE = "MINIMTP_LLAMA_CPP_PYTHON"
SHARED_MEMORY = Path("/dev/shm")  # a folder in memory, on Linux
MAX_REASON = 150  # characters of what the process printed


class FoundLlama(NamedTuple):
    """The Python that has llama_cpp and its version; or None, and why there is none.

    obstacle: completes the sentence "llama.cpp ...".
    """

    python: str | None
    version: str = ""
    obstacle: str = ""


class Continuation(NamedTuple):
    """A continued prompt. prompt_seconds: until the first new token. seconds: for the others."""

    tokens: list[int]  # without the prompt
    prompt_seconds: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """The speed after the prompt. The first token belongs to the prompt's forward pass."""
        return (len(self.tokens) - 1) / self.seconds


class Memory(NamedTuple):
    """The resident memory of the process in bytes: its peak, which includes the buffers that
    loading needs, before it loaded the file, and now.
    """

    peak: int
    before: int
    now: int

    @property
    def model(self) -> int:
        """What the loaded model takes: weights, vocabulary, cache and the buffers of decoding."""
        return self.now - self.before


def find_llama() -> FoundLlama:
    """Return the Python that runs llama.cpp, or why there is none. The answer is kept."""
    return _find_in(os.environ.get(VARIABLE, ""))


@functools.cache
def _find_in(named: str) -> FoundLlama:
    if not named and importlib.util.find_spec("llama_cpp") is None:
        return FoundLlama(
            None,
            obstacle="is not installed: pip install llama-cpp-python, or let "
            f"{VARIABLE} name a Python that has it",
        )
    python = named or sys.executable
    try:
        with _Connection(python) as connection:
            return FoundLlama(python, str(connection.ask("version")["version"]))
    except (MeasurementFailed, OSError) as error:
        where = f" in {shown(named, 60)}, which {VARIABLE} names" if named else ""
        return FoundLlama(None, obstacle=f"cannot be used{where} ({error})")


class LlamaProcess:
    """A GGUF file in a process of llama.cpp: a `Target`, for use in a `with` block.

    threads: of llama.cpp. context: tokens in its cache, at most the model's context (None: all of
    it). exact: see `Session`.

    version, load_seconds: of llama_cpp, and the time to load the file.

    Raises UserError if there is no llama.cpp, MeasurementFailed if it cannot load the file, and
    later if the process ends or llama.cpp fails.
    """

    def __init__(
        self, path: str | Path, *, threads: int = 1, context: int | None = None, exact: bool = False
    ) -> None:
        python, _, obstacle = find_llama()
        if python is None:
            raise UserError(f"llama.cpp {obstacle}")
        where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self._folder = tempfile.TemporaryDirectory(
            prefix="minimtp-", dir=where, ignore_cleanup_errors=True
        )
        self._connection = _Connection(python)
        weakref.finalize(self, self._connection.close)
        shared = str(Path(self._folder.name, "logits"))
        settings = {"threads": threads, "context": context, "exact": exact}
        try:
            about = self._connection.ask(
                "open", path=os.path.abspath(path), shared=shared, **settings
            )
        except BaseException:
            self.close()
            raise
        self.vocabulary_size, self.max_rows = about["vocabulary_size"], about["max_rows"]
        self.context_length, self.length = about["context_length"], 0
        self.version, self.load_seconds = about["version"], about["seconds"]
        shape = self.max_rows, self.vocabulary_size
        self._logits = np.memmap(shared, np.float32, "r", shape=shape)

    def __enter__(self) -> "LlamaProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._folder.cleanup()

    def truncate(self, length: int) -> None:
        """Drop all cache rows from `length` on."""
        self.length = length

    def forward(self, tokens: Sequence[int] | np.ndarray) -> ForwardOutput:
        """Feed (T,) integers after the cached rows. Raises ValueError if they do not fit."""
        rows = len(tokens)
        if self.length + rows > self.context_length:
            raise ValueError(
                f"{rows} tokens after {self.length} do not fit a context of {self.context_length}"
            )
        logits = np.empty((rows, self.vocabulary_size), np.float32)  # (T, V)
        for start in range(0, rows, self.max_rows):
            some = [int(token) for token in tokens[start : start + self.max_rows]]
            self._connection.ask("forward", tokens=some, start=self.length)
            self.length += len(some)
            logits[start : start + len(some)] = self._logits[: len(some)]
        return ForwardOutput(logits, logits[:, :0])  # no drafter reads hidden states

    def logits(self, window: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the logits after each token of a window that begins a text: (T,) -> (T, V)
        float32.
        """
        self.truncate(0)
        return self.forward(window).logits

    def greedy(self, prompt: Sequence[int] | np.ndarray, max_new_tokens: int) -> Continuation:
        """Continue a prompt with the most likely tokens, timed in the process. No token ends it.

        Raises ValueError if prompt and new tokens do not fit the context.
        """
        if not 1 <= len(prompt) <= self.context_length + 1 - max_new_tokens:
            raise ValueError(
                f"a prompt of {len(prompt)} and {max_new_tokens} new tokens do not fit a context "
                f"of {self.context_length}"
            )
        prompt = [int(token) for token in prompt]
        self.length = 0
        return Continuation(
            **self._connection.ask("greedy", prompt=prompt, max_new_tokens=max_new_tokens)
        )

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Return the tokens of llama.cpp's own tokenizer. See `Session.tokenize`."""
        return self._connection.ask("tokenize", text=text, special=special)["tokens"]

    def piece(self, token: int) -> bytes:
        """Return the bytes that llama.cpp prints for a token: none for a special token."""
        return bytes(self._connection.ask("piece", token=token)["bytes"])

    def memory(self) -> Memory | None:
        """Return the peak memory of the process so far. None where the system does not tell it.

        Logits that `forward` has returned count too, so ask before an evaluation.
        """
        found = self._connection.ask("memory")
        return None if found["peak"] is None else Memory(**found)


class _Connection:
    """A process that runs session.py, and answers one request after another."""

    def __init__(self, python: str) -> None:
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [python, session.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(self, request: str, **arguments: object) -> dict:
        """Return the answer to a request. Raises MeasurementFailed if there is none."""
        line = json.dumps({"do": request} | arguments).encode()
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            code, printed = self.process.wait(), self._last_line()
            raise MeasurementFailed(
                f"the process of llama.cpp ended with exit code {code}{printed and ': '}{printed}"
            ) from None
        if "error" in answer:
            raise MeasurementFailed(shown(answer["error"], MAX_REASON))
        return answer

    def _last_line(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        return shown(next((line for line in reversed(lines) if line.strip()), ""), MAX_REASON)

    def close(self) -> None:
        """End the process, even in the middle of a request."""
        if not self.errors.closed:
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(OSError):  # of a request that was not sent
                self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()
