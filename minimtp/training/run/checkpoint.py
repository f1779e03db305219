"""Checkpoints: one safetensors file that a crash cannot damage.

`checkpoint.safetensors` holds the parameters (`model.NAME`), the optimizer's moments
(`optimizer.first.NAME`, `optimizer.second.NAME`) and, as JSON in the header of the file, everything
else that a resumed run needs: recipe, step, tokenizer, corpus and so on. `recipe.json` repeats the
header for people. Resuming does not read it, but `train --recipe` does.

**Atomic.** The file is replaced atomically (files.py), so the path always holds a whole checkpoint:
the previous one or the new one. Everything is in one file, because only the rename of a single file
is atomic.

**Checked.** Safetensors checks the size of the file, which detects a truncated file. The CRC-32
over the header and the arrays detects a damaged file. The arrays must have exactly the names and
shapes of the model that the recipe builds (build.py).

Every failure to read or write a checkpoint is a UserError of one sentence.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

import minimtp
from minimtp.backend import to_numpy
from minimtp.errors import UserError
from minimtp.files import atomic_write, kind_at, make_folder, reason_for, write_text
from minimtp.training.build import Arrays
from minimtp.training.recipe import Recipe
from minimtp.training.run.tensor_file import checksum, map_arrays, write_safetensors

FORMAT_VERSION = 2  # 2: the recipe's settings have their present names
FILE_NAME = "checkpoint.safetensors"
PARTIAL_NAME = "checkpoint.safetensors.partial"
RECIPE_NAME = "recipe.json"
HEADER_KEY = "minimtp"


@dataclass
class Checkpoint:
    """The content of one checkpoint file.

    step, tokens: optimizer steps taken and tokens seen so far.
    corpus: name, sources and fingerprint of the text. tokenizer: the result of its `to_dict`.
    packed: how the weights were rounded, if they are stored as packed blocks.
    state: JSON values that only the training loop uses (seconds, shards, evaluation, ...).
    """

    recipe: Recipe
    parameters: Arrays
    optimizer: Arrays = field(default_factory=dict)
    step: int = 0
    tokens: int = 0
    corpus: dict[str, object] = field(default_factory=dict)
    tokenizer: dict[str, object] = field(default_factory=lambda: {"kind": "bytes"})
    packed: dict[str, str] | None = None
    state: dict[str, object] = field(default_factory=dict)
    version: str = minimtp.__version__


def exists(folder: str | Path) -> bool:
    """Return whether the run folder holds a checkpoint. It may be damaged."""
    return kind_at(Path(folder, FILE_NAME)) == "file"


def write(folder: str | Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint into the folder, which is created if it does not exist.

    Raises UserError if the folder or the file cannot be written. The previous checkpoint is then
    unchanged.
    """
    folder = make_folder(folder)
    arrays = {f"model.{name}": array for name, array in checkpoint.parameters.items()}
    arrays |= {f"optimizer.{name}": array for name, array in checkpoint.optimizer.items()}
    arrays = {name: to_numpy(array) for name, array in arrays.items()}
    header = {
        "format_version": FORMAT_VERSION,
        "minimtp_version": checkpoint.version,
        "recipe": checkpoint.recipe.to_dict(),
        "step": checkpoint.step,
        "tokens": checkpoint.tokens,
        "corpus": checkpoint.corpus,
        "tokenizer": checkpoint.tokenizer,
        "packed": checkpoint.packed,
        "state": checkpoint.state,
    }
    encoded = json.dumps(header)
    metadata = {HEADER_KEY: encoded, "crc32": str(checksum(encoded, arrays))}
    try:
        with atomic_write(folder / FILE_NAME) as partial:
            write_safetensors(partial, arrays, metadata)
    except UserError as error:
        intact = ", the previous checkpoint is intact" if exists(folder) else ""
        raise UserError(f"{error}{intact}") from None
    readable = {key: value for key, value in header.items() if key != "tokenizer"}
    write_text(folder / RECIPE_NAME, json.dumps(readable, indent=2) + "\n")


def read(folder: str | Path, optimizer: bool = True) -> Checkpoint:
    """Read the checkpoint of a run folder.

    optimizer: False leaves out the optimizer's moments. The arrays of a packed model are mapped
    into memory, not copied.

    Raises UserError if the folder or its checkpoint is missing, truncated, damaged, not written by
    minimtp, or of another format version.
    """
    folder = Path(folder)
    path = folder / FILE_NAME
    kind = kind_at(folder)
    if kind != "folder":
        found = "there is no run folder {}" if kind == "nothing" else "{} is not a run folder"
        raise UserError(f"{found.format(folder)}: give the folder that minimtp train --out wrote")
    if kind_at(path) != "file":
        raise UserError(
            f"{folder} holds no checkpoint: give a run folder in which training has saved one"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            header = _header(path, metadata)
            if header["packed"] is None:
                arrays = {name: file.get_tensor(name) for name in file.keys()}
            else:
                arrays = map_arrays(path)
    except (OSError, SafetensorError, KeyError) as error:  # KeyError: a type that we do not write
        raise UserError(
            f"{path} is damaged ({reason_for(error)}): delete it, or give another run folder"
        ) from None
    if str(checksum(metadata[HEADER_KEY], arrays)) != metadata.get("crc32"):
        raise UserError(
            f"{path} is damaged (its checksum does not match): "
            "delete it, or give another run folder"
        )
    return Checkpoint(
        recipe=Recipe.from_dict(header["recipe"]),
        parameters=_with_prefix("model.", arrays),
        optimizer=_with_prefix("optimizer.", arrays) if optimizer else {},
        step=header["step"],
        tokens=header["tokens"],
        corpus=header["corpus"],
        tokenizer=header["tokenizer"],
        packed=header["packed"],
        state=header["state"],
        version=header["minimtp_version"],
    )


def _header(path: Path, metadata: dict[str, str]) -> dict:
    """Return the JSON that `write` stored.

    Raises UserError if minimtp did not write the file, or wrote it in another format version.
    """
    try:
        header = json.loads(metadata[HEADER_KEY])
        version = header["format_version"]
    except (KeyError, ValueError, TypeError):
        raise UserError(
            f"{path} is a safetensors file, but not a checkpoint of minimtp: give a run folder"
        ) from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has checkpoint format {version}, written by minimtp "
            f"{header.get('minimtp_version')}, but this version reads format {FORMAT_VERSION}: "
            "train the run again, or use the version that wrote it"
        )
    return header


def _with_prefix(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays whose names begin with `prefix`, under their names without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
