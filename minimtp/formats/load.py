"""Loading a model: the one function that knows all formats.

A model is a folder or a file. Everything else takes the loaded model, never a path.

    a folder     a run folder of `minimtp train` or `minimtp quantize` (training/run/folder.py)
    NAME.gguf    a GGUF file of `minimtp export` or llama.cpp (gguf/reader.py)
"""

from pathlib import Path

from minimtp.training.run.folder import LoadedRun, load_run


def load(path: str | Path, device: str = "cpu") -> LoadedRun:
    """Load the model at `path` onto the device "cpu", "cuda" or "auto".

    Raises UserError if the path holds no model that can be loaded, or the device cannot be used.
    """
    if Path(path).suffix.lower() == ".gguf":
        from minimtp.formats.gguf.reader import load_gguf

        return load_gguf(path, device)
    return load_run(path, device)
