"""Checkpoints: one safetensors file that a crash cannot damage.

A run folder holds

    checkpoint.safetensors    parameters (`model.NAME`), optimizer moments (`optimizer.first.NAME`,
                              `optimizer.second.NAME`) and, as JSON in the file's header, all that is needed to go on:
                              recipe, step, tokenizer, corpus, ...
    recipe.json               the same settings for people; resuming does not read it, `train --recipe` does
    log.jsonl                 one line per logged step

**Atomic.** The new file is written beside the old one, flushed to the disk, and renamed over it; then the folder is
flushed. Whatever happens in between (a kill, a full disk, a power cut), the name `checkpoint.safetensors` always
means one whole checkpoint, the previous one or the new one. Everything in one file is what makes one rename enough.

**Checked.** A truncated file fails safetensors' own size check; a damaged one fails the CRC-32 over header and
arrays. Tensors must match the model that the recipe builds, name by name and shape by shape.

Every way in which a folder cannot be read or written is a UserError of one sentence.
"""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

import minimtp
from minimtp.backend import choose_device, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters
from minimtp.errors import UserError
from minimtp.files import atomic_write, kind_at, make_folder, reason_for, write_text
from minimtp.training.build import Arrays, Model, build_model, fill, quantization_spec
from minimtp.training.data.tokenizer import Tokenizer, tokenizer_from_dict
from minimtp.training.recipe import Recipe

if TYPE_CHECKING:
    from minimtp.quant.qat.modules import QuantizationSpec

FORMAT_VERSION = 2
FILE_NAME = "checkpoint.safetensors"
RECIPE_NAME = "recipe.json"
LOG_NAME = "log.jsonl"
HEADER_KEY = "minimtp"
DTYPE_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int8": "I8",
    "uint8": "U8",
}


@dataclass
class Checkpoint:
    """What one file holds. `state` carries JSON values that only the training loop knows (seconds, threads, ...)."""

    recipe: Recipe
    parameters: Arrays
    optimizer: Arrays = field(default_factory=dict)
    step: int = 0  # optimizer steps taken
    tokens: int = 0  # tokens seen
    corpus: dict[str, object] = field(default_factory=dict)  # name, sources, fingerprint
    tokenizer: dict[str, object] = field(default_factory=lambda: {"kind": "bytes"})
    packed: dict[str, str] | None = (
        None  # how the weights were rounded, if they are stored as blocks
    )
    state: dict[str, object] = field(default_factory=dict)
    version: str = minimtp.__version__


def exists(folder: str | Path) -> bool:
    """Whether the run folder holds a checkpoint (it may still turn out to be damaged)."""
    return kind_at(Path(folder, FILE_NAME)) == "file"


def started(folder: str | Path) -> bool:
    """Whether training has begun there: there is a checkpoint to go on from, or at least a log."""
    return exists(folder) or kind_at(Path(folder, LOG_NAME)) == "file"


def write(folder: str | Path, checkpoint: Checkpoint) -> None:
    """Write the folder's checkpoint, replacing the previous one only when the new one is safely on the disk.

    Raises UserError when the folder or the file cannot be written; the previous checkpoint is then untouched.
    """
    folder = make_folder(folder)
    arrays = {f"model.{name}": array for name, array in checkpoint.parameters.items()}
    arrays |= {f"optimizer.{name}": array for name, array in checkpoint.optimizer.items()}
    arrays = {name: to_numpy(array) for name, array in arrays.items()}
    header = {
        "format_version": FORMAT_VERSION, "minimtp_version": checkpoint.version, "recipe": checkpoint.recipe.to_dict(),
        "step": checkpoint.step, "tokens": checkpoint.tokens, "corpus": checkpoint.corpus,
        "tokenizer": checkpoint.tokenizer, "packed": checkpoint.packed, "state": checkpoint.state,
    }  # fmt: skip
    encoded = json.dumps(header)
    metadata = {HEADER_KEY: encoded, "crc32": str(_checksum(encoded, arrays))}
    try:
        with atomic_write(folder / FILE_NAME) as partial:
            write_safetensors(partial, arrays, metadata)
    except UserError as error:
        intact = ", the previous checkpoint is intact" if exists(folder) else ""
        raise UserError(f"{error}{intact}") from None
    readable = {key: value for key, value in header.items() if key != "tokenizer"}
    write_text(folder / RECIPE_NAME, json.dumps(readable, indent=2) + "\n")


def read(folder: str | Path, optimizer: bool = True) -> Checkpoint:
    """The folder's checkpoint; without the moments if `optimizer` is False. A packed model's arrays are mapped, not copied.

    Raises UserError when the folder or its checkpoint is missing, truncated, damaged, foreign or of another format.
    """
    folder = Path(folder)
    path = folder / FILE_NAME
    if kind_at(folder) != "folder":
        raise UserError(
            f"there is no run folder {folder}: give the folder that minimtp train --out wrote"
        )
    if kind_at(path) != "file":
        raise UserError(
            f"{folder} holds no checkpoint: give a run folder in which training has saved one"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            header = _header(path, metadata)
            mapped = header["packed"] is not None
            arrays = (
                _mapped(path) if mapped else {name: file.get_tensor(name) for name in file.keys()}
            )
    except (OSError, SafetensorError, KeyError) as error:  # KeyError: a type that we do not write
        raise UserError(
            f"{path} is damaged ({reason_for(error)}): delete it, or give another run folder"
        ) from None
    if str(_checksum(metadata[HEADER_KEY], arrays)) != metadata.get("crc32"):
        raise UserError(
            f"{path} is damaged (its checksum does not fit): delete it, or give another run folder"
        )
    return Checkpoint(
        recipe=Recipe.from_dict(header["recipe"]), parameters=_below("model.", arrays),
        optimizer=_below("optimizer.", arrays) if optimizer else {}, step=header["step"], tokens=header["tokens"],
        corpus=header["corpus"], tokenizer=header["tokenizer"], packed=header["packed"], state=header["state"],
        version=header["minimtp_version"],
    )  # fmt: skip


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with what is needed to use it.

    model: in training form: full precision, fake-quantized if quantization had begun, or packed (`minimtp quantize`).
    corpus: name, sources and fingerprint of the text it was trained on.
    """

    folder: Path
    model: Model
    recipe: Recipe
    tokenizer: Tokenizer
    step: int
    tokens: int
    corpus: dict[str, object]
    packed: "QuantizationSpec | None"
    fake_quantized: bool
    state: dict[str, object]


def load(folder: str | Path, device: str = "cpu") -> LoadedRun:
    """The model of a run folder, or of a GGUF file (formats/gguf/gguf.py), on the device "cpu", "cuda" or "auto".

    Raises UserError for whatever is wrong with the folder (see `read`), and for a device that cannot be used.
    """
    if Path(folder).suffix == ".gguf":
        from minimtp.formats.gguf.gguf import load as load_gguf

        return load_gguf(folder, device)
    chosen = choose_device(device)
    checkpoint = read(folder, optimizer=False)
    recipe, path = checkpoint.recipe, Path(folder, FILE_NAME)
    model = build_model(recipe, None)
    spec, fake_quantized = None, False
    if checkpoint.packed is not None:
        from minimtp.quant.qat.modules import QuantizationSpec, restore

        spec = QuantizationSpec(**checkpoint.packed)
        model = restore(
            model,
            spec,
            {name: to_device(array, chosen) for name, array in checkpoint.parameters.items()},
        )
    else:
        fill(model, checkpoint.parameters, path)
        map_parameters(model, lambda array: to_device(array, chosen))
        if fake_quantized := quantization_began(checkpoint):
            from minimtp.quant.qat.modules import prepare

            model = prepare(model, quantization_spec(recipe))
    return LoadedRun(
        Path(folder), model, recipe, tokenizer_from_dict(checkpoint.tokenizer), checkpoint.step, checkpoint.tokens,
        checkpoint.corpus, spec, fake_quantized, checkpoint.state,
    )  # fmt: skip


def quantization_began(checkpoint: Checkpoint) -> bool:
    """Whether the last step that was taken saw rounded weights."""
    first = checkpoint.recipe.first_quantized_step
    return first is not None and checkpoint.step > first


def write_safetensors(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write a safetensors file: the header's length (8 bytes), the header (JSON), then the arrays' bytes in its order.

    The library's own writer goes through a temporary file with a random name, which a kill would leave behind, and which
    only its owner may read; written array by array there is one known name, and no second copy of the model in memory.
    """
    names = sorted(
        arrays, key=lambda name: (-arrays[name].itemsize, name)
    )  # wide types first: all stay aligned
    header: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name in names:
        end = start + arrays[name].nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[arrays[name].dtype.name], "shape": list(arrays[name].shape), "data_offsets": [start, end]
        }  # fmt: skip
        start = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in names:
            file.write(_bytes(arrays[name]))


def _mapped(path: Path) -> Arrays:
    """The arrays of a safetensors file that the library has accepted, as they lie in the file: nothing is copied.

    The system reads a page when it is first touched, and shares it with every process that maps the file. Writing to an
    array changes neither the file nor what others see (copy on write).
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    content = np.asarray(np.memmap(path, np.uint8, "c", offset=8 + length))
    dtypes = {stored: np.dtype(name) for name, stored in DTYPE_NAMES.items()}
    return {
        name: content[slice(*entry["data_offsets"])].view(dtypes[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items() if name != "__metadata__"
    }  # fmt: skip


def _header(path: Path, metadata: dict[str, str]) -> dict:
    """The JSON that `write` put into the file. Raises UserError when the file is not ours or of another format."""
    try:
        header = json.loads(metadata[HEADER_KEY])
        version = header["format_version"]
    except (KeyError, ValueError, TypeError):
        raise UserError(
            f"{path} is a safetensors file, but not a checkpoint of minimtp: give a run folder"
        ) from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has checkpoint format {version}, written by minimtp {header.get('minimtp_version')}, but this "
            f"version reads format {FORMAT_VERSION}: train the run again, or use the version that wrote it"
        )
    return header


def _checksum(header: str, arrays: Arrays) -> int:
    checksum = zlib.crc32(header.encode())
    for name in sorted(arrays):
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(_bytes(arrays[name]), checksum)
    return checksum


def _bytes(array: np.ndarray) -> memoryview:
    """The array's bytes in C order, without a copy where they lie so already."""
    return memoryview(array.reshape(-1).view(np.uint8))


def _below(prefix: str, arrays: Arrays) -> Arrays:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
