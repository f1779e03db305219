"""Exporting a model and its draft head: for llama.cpp as GGUF files, or for transformers, vLLM and
SGLang as folders.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from minimtp.arguments import PATH, checked_arguments, one_of, optional
from minimtp.errors import UserError
from minimtp.files import check_file, check_new_folder, kind_at
from minimtp.formats.exported import Exported
from minimtp.model.heads import Eagle3Heads
from minimtp.model.loaded import LOADED, LoadedModel
from minimtp.model.tokenizer import Tokenizer
from minimtp.model.transformer import LanguageModel
from minimtp.quant.qat.convert import packed_model
from minimtp.quoting import shown_path

GGUF = ".gguf"
DTYPES = ("float32", "bfloat16")
DRAFT_FORMATS = ("llama", "speculators")


class Output(NamedTuple):
    """A file or folder to write. writer: the module of its format, with the functions `written`
    and `exported`.
    """

    path: Path
    writer: ModuleType
    content: Any
    caveats: list[str]


@checked_arguments(
    loaded=LOADED,
    path=PATH,
    dtype=optional(one_of(*DTYPES)),
    draft=optional(PATH),
    draft_format=optional(one_of(*DRAFT_FORMATS)),
)
def export(
    loaded: LoadedModel,
    path: str | Path,
    dtype: str | None = None,
    draft: str | Path | None = None,
    draft_format: str | None = None,
) -> Exported:
    """Write the trunk and the tokenizer of a loaded model, and its eagle3 heads.

    Returns an `Exported`: the `path`, the `size` in bytes, the number of tensors of each of the
    `types`, the `caveats` (what of the model the format cannot hold), and as `draft` the same of
    the heads, if they were written.

    path: a GGUF file if the name ends in .gguf; any other name becomes a Hugging Face folder.
    dtype: the type of the weights in a folder, float32 (the default) or bfloat16. A GGUF file keeps
    the types of the model.
    draft: a path for the heads, with the same meaning of its name. None: they are not written.
    draft_format: the form of a folder for the heads: llama (the default), for vLLM and SGLang, or
    speculators, for the library speculators and vLLM.

    An earlier GGUF export is replaced once the new one is safely on the disk. A folder must be new.
    Both outputs are written, or neither.

    Raises UserError if the format cannot hold the model, if the extra `interop` is missing, if
    something else is at a path, or if it cannot be written.
    """
    paths = [Path(path)] if draft is None else [Path(path), Path(draft)]
    _check_options(loaded, paths, dtype, draft_format)
    for output_path in paths:
        _check_path(output_path, loaded)
    model, name = packed_model(loaded.model), loaded.path.name.removesuffix(GGUF)
    dtype = dtype or DTYPES[0]
    trunk = model if draft is None else model.trunk
    outputs = [_of_model(paths[0], trunk, loaded.tokenizer, name, dtype)]
    if draft is not None:
        outputs.append(_of_head(paths, model, loaded.tokenizer, name, dtype, draft_format))
    with ExitStack() as stack:  # all are complete before the first is moved to its place
        for output in outputs:
            stack.enter_context(output.writer.written(output.path, output.content))
    done = [o.writer.exported(o.path, o.content, o.caveats) for o in outputs]
    return done[0] if draft is None else done[0]._replace(draft=done[1])


def _of_model(
    path: Path, model: LanguageModel, tokenizer: Tokenizer, name: str, dtype: str
) -> Output:
    if _is_gguf(path):
        from minimtp.formats.gguf import writer

        content = writer.model_content(model, tokenizer, name)
        return Output(path, writer, content, writer.caveats(model))
    from minimtp.formats.huggingface import writer

    content = writer.model_content(model, tokenizer, dtype)
    return Output(path, writer, content, writer.caveats(model, dtype))


def _of_head(
    paths: list[Path],
    model: LanguageModel,
    tokenizer: Tokenizer,
    name: str,
    dtype: str,
    form: str | None,
) -> Output:
    """paths: of the model, and of the heads."""
    if _is_gguf(paths[1]):
        from minimtp.formats.eagle3 import gguf
        from minimtp.formats.gguf import writer

        content = gguf.head_content(model, tokenizer, f"{name}-eagle3")
        return Output(paths[1], writer, content, gguf.caveats(model))
    from minimtp.formats.eagle3 import folder
    from minimtp.formats.huggingface import writer

    verifier = None if _is_gguf(paths[0]) else str(paths[0])
    content = folder.head_content(model, dtype, form or DRAFT_FORMATS[0], verifier)
    return Output(paths[1], writer, content, folder.caveats(model, dtype))


def _is_gguf(path: Path) -> bool:
    return path.name.lower().endswith(GGUF)  # `.gguf` alone has no suffix


def _check_options(
    loaded: LoadedModel, paths: list[Path], dtype: str | None, draft_format: str | None
) -> None:
    """Raise UserError for options that have nothing to act on."""
    if dtype is not None and all(map(_is_gguf, paths)):
        raise UserError(
            f"dtype {dtype} is for folders, and {shown_path(paths[0])} is a GGUF file, which keeps "
            "the types of the model: leave it out, or give a name that does not end in .gguf"
        )
    if draft_format is not None and not (len(paths) == 2 and not _is_gguf(paths[1])):
        raise UserError(
            f"draft_format {draft_format} is for a folder of heads: leave it out, or give draft a "
            "name that does not end in .gguf"
        )
    if len(paths) == 2:
        if not (loaded.model.depth and isinstance(loaded.model.heads, Eagle3Heads)):
            raise UserError(
                f"{loaded.path} has no eagle3 heads to write to {shown_path(paths[1])}: leave out "
                "draft, or train a model with heads eagle3"
            )
        _check_apart(*paths)


def _check_apart(path: Path, draft: Path) -> None:
    """Raise UserError if one of the two outputs is the other, or lies in it."""
    ours, theirs = Path(os.path.realpath(path)), Path(os.path.realpath(draft))
    if ours == theirs:
        raise UserError(
            f"{shown_path(draft)} is the output for the model too: choose another draft"
        )
    for outer, inner in ((ours, theirs), (theirs, ours)):
        if inner.is_relative_to(outer):
            raise UserError(
                f"one of the outputs {shown_path(path)} and {shown_path(draft)} lies in the other: "
                "choose another draft"
            )


def _check_path(path: Path, loaded: LoadedModel) -> None:
    """Raise UserError unless an output may be written here."""
    both = os.path.exists(path) and os.path.exists(loaded.path)
    if both and os.path.samefile(path, loaded.path):
        raise UserError(f"{shown_path(path)} is the model itself: choose another path")
    if _is_gguf(path):
        from minimtp.formats.gguf.writer import GGUF_FILE

        check_file(path, GGUF_FILE)
        return
    if kind_at(path) == "file":
        raise UserError(
            f"{shown_path(path)} is a file, and stays as it is: give a new folder, or a name that "
            "ends in .gguf"
        )
    check_new_folder(path)
