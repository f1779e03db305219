"""Checkpoints: one safetensors file that a crash cannot damage.

`checkpoint.safetensors` holds the parameters (`model.NAME`), the optimizer's moments
(`optimizer.first.NAME`, `optimizer.second.NAME`) and, as JSON in the header of the file, everything
else that a resumed run needs: recipe, step, tokenizer, corpus and so on. `recipe.json` repeats the
header for people. Resuming does not read it, but `train --recipe` does.

**Atomic.** The file is replaced atomically (files/), so the path always holds a whole checkpoint:
the previous one or the new one. Everything is in one file, because only the rename of a single file
is atomic.

**Checked.** The sizes in the file are compared with its own (tensor_file.py), which detects a
truncated file. The CRC-32 over the header and the arrays detects a damaged file. The header must
have the form of `Header`, which detects a file that another program has changed. The arrays must
have exactly the names and shapes of the model that the recipe builds (build.py).

Every failure to read or write a checkpoint is a UserError of one sentence.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

import minimtp
from minimtp.backend import to_numpy
from minimtp.errors import UserError, naming, shown
from minimtp.files import (
    FileKind,
    atomic_write,
    check_file,
    check_folder,
    kind_at,
    make_folder,
    write_text,
)
from minimtp.quoting import shown_path
from minimtp.records import Count, Finite, NonNegative, Positive, check_value, parse_json, read_json
from minimtp.training.build import Arrays
from minimtp.training.evaluation import Evaluation
from minimtp.training.recipe import Recipe
from minimtp.training.run.tensor_file import checksum, damaged, open_tensors, write_safetensors

FORMAT_VERSION = 2  # 2: the recipe's settings have their present names
FILE_NAME = "checkpoint.safetensors"
RECIPE_NAME = "recipe.json"
HEADER_KEY = "minimtp"
CHECKPOINT = FileKind("a checkpoint", contains=b'{"__metadata__": {"minimtp":')
RECIPE = FileKind("a copy of a checkpoint's header", begins=b'{"format_version":')
HUGGINGFACE_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json")
MODELS = "give a folder of minimtp train or of transformers, or a GGUF file"
ADVICE = "delete it, or give another run folder"
MOMENTS = ("first.", "second.", "average.")  # the optimizer's arrays, before the parameter's name

StoredPath = Annotated[str, Meta(pattern=r"\A[^\0]+\Z")]


class State(Struct):
    """The values of the training loop that are used again. There may be others."""

    seconds: NonNegative = 0.0
    shards: Positive = 1
    evaluation: Evaluation | None = None
    evaluated_at: Count | None = None
    teacher: StoredPath | None = None
    loss_scale: tuple[Finite, Count] | None = None


class CorpusRecord(Struct):
    """The description of a text, see `minimtp.training.data.corpus.Corpus`."""

    name: str = ""
    sources: list[StoredPath] = []
    fingerprint: str | None = None
    training_tokens: Count | None = None
    encoding: str | None = None
    folder: StoredPath | None = None


class TokenizerRecord(Struct):
    """The result of a tokenizer's `to_dict`, which may have more keys."""

    kind: str
    file: str = ""


class Header(Struct):
    """The JSON in the header of the file."""

    format_version: Annotated[int, Meta(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    minimtp_version: str
    recipe: dict[str, object]
    step: Count
    tokens: Count
    corpus: CorpusRecord
    tokenizer: TokenizerRecord
    packed: dict[str, str] | None
    state: State


@dataclass
class Checkpoint:
    """The content of one checkpoint file.

    step, tokens: optimizer steps taken and tokens seen so far.
    corpus: name, sources, fingerprint and size of the text. tokenizer: the result of its `to_dict`.
    packed: how the weights were rounded, if they are stored as packed blocks.
    state: JSON values that only the training loop uses (seconds, shards, evaluation, ...).
    source: names the checkpoint in messages: its path if it was read from a file.
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
    source: str = "the checkpoint"


def exists(folder: str | Path) -> bool:
    """Return whether the run folder holds a checkpoint. It may be damaged."""
    return kind_at(Path(folder, FILE_NAME)) == "file"


def check_place(folder: str | Path) -> None:
    """Raise UserError if a checkpoint cannot be written into this folder, which need not exist."""
    check_folder(folder)
    there = check_file(Path(folder, FILE_NAME), CHECKPOINT)
    paths = [Path(folder, name) for name in HUGGINGFACE_FILES]
    other = next(filter(os.path.lexists, paths), None)
    if other and not there:
        raise UserError(
            f"{shown_path(other)} seems to belong to another model, which a checkpoint beside it "
            "would hide: choose another --out"
        )
    if check_file(Path(folder, RECIPE_NAME), RECIPE) and not there:  # a recipe is written last
        raise UserError(
            f"{shown_path(Path(folder, RECIPE_NAME))} would be replaced: "
            "choose another --out, or move it away"
        )


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
        with atomic_write(folder / FILE_NAME, CHECKPOINT) as file:
            write_safetensors(file, arrays, metadata)
    except UserError as error:
        intact = ", the previous checkpoint is intact" if exists(folder) else ""
        raise UserError(f"{error}{intact}") from None
    readable = {key: value for key, value in header.items() if key != "tokenizer"}
    write_text(folder / RECIPE_NAME, json.dumps(readable, indent=2) + "\n", RECIPE)


def read(folder: str | Path, optimizer: bool = True) -> Checkpoint:
    """Read the checkpoint of a run folder.

    optimizer: False leaves out the optimizer's moments. The arrays of a packed model are mapped
    into memory, not copied.

    Raises UserError if the folder or its checkpoint is missing, truncated, damaged, not written by
    minimtp, or of another format version.
    """
    path = _path(folder)
    with open_tensors(path, ADVICE) as file:
        header = _header(path, file.metadata)
        arrays = file.read_arrays() if header["packed"] is None else file.map_arrays()
    if str(checksum(file.metadata[HEADER_KEY], arrays)) != file.metadata.get("crc32"):
        raise damaged(path, "its checksum does not match", ADVICE)
    parameters, moments = _with_prefix("model.", arrays), _with_prefix("optimizer.", arrays)
    _check_moments(path, parameters, moments)
    return _checkpoint(path, header, parameters, moments if optimizer else {})


def read_header(folder: str | Path) -> Checkpoint:
    """Read the checkpoint of a run folder without its arrays, which is fast. The checksum covers
    the arrays, so it is not compared.

    Raises the other errors of `read`.
    """
    path = _path(folder)
    with open_tensors(path, ADVICE) as file:
        return _checkpoint(path, _header(path, file.metadata), {}, {})


def _path(folder: str | Path) -> Path:
    """Return the path of a folder's checkpoint. Raises UserError if there is none."""
    folder = Path(folder)
    kind = kind_at(folder)
    if kind != "folder":
        found = "there is no run folder {}" if kind == "nothing" else "{} is not a run folder"
        raise UserError(f"{found.format(folder)}: {MODELS}")
    if kind_at(folder / FILE_NAME) != "file":
        raise UserError(f"{folder} holds no checkpoint, and no model of another kind: {MODELS}")
    return folder / FILE_NAME


def _checkpoint(path: Path, header: dict, parameters: Arrays, optimizer: Arrays) -> Checkpoint:
    with naming(path):
        recipe = Recipe.from_dict(header["recipe"])
    return Checkpoint(
        recipe=recipe,
        parameters=parameters,
        optimizer=optimizer,
        step=header["step"],
        tokens=header["tokens"],
        corpus=header["corpus"],
        tokenizer=header["tokenizer"],
        packed=header["packed"],
        state=header["state"],
        version=header["minimtp_version"],
        source=str(path),
    )


class RecipeFile(Struct):
    """recipe.json, which has more keys."""

    recipe: dict[str, object]


def read_settings(path: str | Path) -> dict[str, object]:
    """Return the settings in recipe.json, or in a JSON object of settings only.

    Raises UserError if the file cannot be read. The settings themselves are not checked.
    """
    advice = "give the recipe.json of a run, or a JSON object of settings"
    values = read_json(path, dict[str, object], advice=advice)
    return check_value(values, RecipeFile, path, advice).recipe if "recipe" in values else values


def _header(path: Path, metadata: dict[str, str]) -> dict:
    """Return the JSON that `write` stored.

    Raises UserError if minimtp did not write the file, or wrote it in another format version.
    """
    if HEADER_KEY not in metadata:
        raise UserError(
            f"{path} is a safetensors file, but not a checkpoint of minimtp: give a run folder"
        )
    header = parse_json(metadata[HEADER_KEY], path, ADVICE)
    version = header.get("format_version") if isinstance(header, dict) else None
    if type(version) is int and version != FORMAT_VERSION:
        written_by = shown(header.get("minimtp_version", "of another version"))
        raise UserError(
            f"{path} has checkpoint format {shown(version)}, written by minimtp {written_by}, but "
            f"this version reads format {FORMAT_VERSION}: train the run again, or use the version "
            "that wrote it"
        )
    check_value(header, Header, path, ADVICE)
    return header


def _check_moments(path: Path, parameters: Arrays, moments: Arrays) -> None:
    """Raise UserError for an array of the optimizer that has not the form of its parameter."""
    for name, array in moments.items():
        prefix = next((prefix for prefix in MOMENTS if name.startswith(prefix)), None)
        parameter = parameters.get(name.removeprefix(prefix or ""))
        if prefix is None or array.dtype.kind != "f":
            raise damaged(path, f"optimizer.{shown(name)} is not known", ADVICE)
        if parameter is not None and parameter.shape != array.shape:
            raise damaged(path, f"optimizer.{shown(name)} has another shape than model", ADVICE)


def require_weights(stored: Checkpoint, path: Path) -> None:
    """Raise UserError if the arrays are too few bytes for the model that the recipe describes.

    To be called before that model is built, because it might be much larger than the file.
    """
    held = sum(array.nbytes for array in stored.parameters.values())
    needed = stored.recipe.trunk_parameters() // (4 if stored.packed else 1)  # ternary: 2 bits
    if held < needed:
        raise UserError(
            f"{path} holds {held:,} bytes of weights, too few for the model of its recipe: {ADVICE}"
        )


def _with_prefix(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays whose names begin with `prefix`, under their names without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
