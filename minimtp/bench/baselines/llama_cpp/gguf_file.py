"""The GGUF file with which llama.cpp runs a loaded model."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from minimtp.formats.gguf.container import is_gguf
from minimtp.formats.gguf.writer import write_gguf
from minimtp.model.loaded import LoadedModel


def gguf_of(loaded: LoadedModel, stack: ExitStack, report: Callable[[str], None]) -> Path:
    """Return the model's own GGUF file, or one that exists until the stack is closed.

    report: receives a line about each property of the model that the file cannot hold.
    Raises UserError if a GGUF file cannot hold the model.
    """
    if loaded.path.is_file() and is_gguf(loaded.path):
        return loaded.path
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="minimtp-"))
    written = write_gguf(Path(folder, "model.gguf"), loaded.model, loaded.tokenizer, "model")
    for caveat in written.caveats:
        report(f"llama.cpp: {caveat}")
    return written.path
