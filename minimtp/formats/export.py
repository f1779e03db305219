"""Exporting a model: for llama.cpp as a GGUF file, or for transformers as a folder."""

import os
from pathlib import Path

from minimtp.arguments import PATH, checked_arguments, one_of, optional
from minimtp.errors import UserError
from minimtp.files import kind_at
from minimtp.formats.exported import Exported
from minimtp.model.loaded import LOADED, LoadedModel
from minimtp.quoting import shown_path

GGUF = ".gguf"
DTYPES = ("float32", "bfloat16")


@checked_arguments(loaded=LOADED, path=PATH, dtype=optional(one_of(*DTYPES)))
def export(loaded: LoadedModel, path: str | Path, dtype: str | None = None) -> Exported:
    """Write the trunk and the tokenizer of a loaded model.

    path: a GGUF file if the name ends in .gguf; any other name becomes a Hugging Face folder.
    dtype: the type of the weights in a folder, float32 (the default) or bfloat16. A GGUF file keeps
    the types of the model.

    An earlier GGUF export is replaced once the new one is safely on the disk. A folder must be new.

    Raises UserError if the format cannot hold the model, if the extra `interop` is missing, if
    something else is at `path`, or if it cannot be written.
    """
    if os.path.exists(path) and os.path.samefile(path, loaded.path):
        raise UserError(f"{shown_path(path)} is the model itself: choose another --out")
    if Path(path).suffix.lower() == GGUF:
        from minimtp.formats.gguf.writer import write_gguf

        if dtype is not None:
            raise UserError(
                f"dtype {dtype} is for folders, and {shown_path(path)} is a GGUF file, which keeps "
                "the types of the model: leave it out, or give a name that does not end in .gguf"
            )
        name = loaded.path.name.removesuffix(GGUF)
        return write_gguf(path, loaded.model, loaded.tokenizer, name)
    if kind_at(path) == "file":
        raise UserError(
            f"{shown_path(path)} is a file, and stays as it is: give a new folder, or a name that "
            "ends in .gguf"
        )
    from minimtp.formats.huggingface.writer import write_huggingface

    return write_huggingface(path, loaded.model, loaded.tokenizer, dtype or "float32")
