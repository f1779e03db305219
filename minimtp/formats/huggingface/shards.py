"""The safetensors files of a Hugging Face folder: one, or several with an index.

Tensors are read one at a time and become float32, so that loading needs memory for the model and
for one tensor. NumPy has no bfloat16, but a bfloat16 is the upper half of a float32.

A file begins with the length of its header (8 bytes, little-endian) and the header, JSON that gives
type, shape and place of every tensor. Every number in it is checked against the size of the file
before it is used. https://github.com/huggingface/safetensors
"""

import math
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.errors import UserError, shown
from minimtp.files import kind_at, reason_for
from minimtp.records import Count, check_value, decode_json, read_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADVICE = "give a complete folder of a model"
MAX_HEADER = 100 * 2**20  # the library's own limit
STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Tensor(NamedTuple):
    """A tensor on disk. start: its first byte in the file."""

    path: Path
    type: str
    shape: tuple[int, ...]
    start: int

    def read(self) -> Array:
        """Return the tensor as float32. Raises UserError if the file cannot be read."""
        stored = np.dtype(STORED[self.type])
        try:
            flat = np.fromfile(self.path, stored, math.prod(self.shape), offset=self.start)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({reason_for(error)}): {ADVICE}") from None
        if flat.size != math.prod(self.shape):
            raise UserError(f"{self.path} became shorter while it was read: {ADVICE}")
        return widened(flat, self.type).reshape(self.shape)


class Entry(Struct):
    """What the header says of a tensor."""

    dtype: str
    shape: list[Count]
    data_offsets: tuple[Count, Count]


class Index(Struct):
    """The content of the index: the file of each tensor."""

    weight_map: dict[str, str]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the folder, by name.

    Raises UserError if a file is missing or damaged, or lacks a tensor that the index promises.
    """
    if kind_at(folder / INDEX) == "nothing":
        return _tensors_in(folder / WHOLE)
    promised = read_json(folder / INDEX, Index, advice=ADVICE).weight_map
    by_file: dict[str, dict[str, Tensor]] = {}
    for name, file in promised.items():
        if Path(file).name != file:
            raise UserError(
                f"{folder / INDEX} names the file {shown(file)}, which is not in its folder: "
                f"{ADVICE}"
            )
        if file not in by_file:
            by_file[file] = _tensors_in(folder / file)
        if name not in by_file[file]:
            raise UserError(
                f"{folder / file} lacks {shown(name, 60)}, which {INDEX} promises: {ADVICE}"
            )
    return {name: by_file[file][name] for name, file in promised.items()}


def widened(flat: Array, stored_type: str) -> Array:
    """Return the numbers of a type of `STORED` as float32."""
    if stored_type == "BF16":
        return (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.astype(np.float32, copy=False)


def _tensors_in(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file. Raises UserError if it is missing or damaged."""
    if kind_at(path) != "file":
        raise UserError(f"there is no file {path}: {ADVICE}")
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_HEADER):
                raise UserError(
                    f"{path} has a header of {length} bytes, but {size} bytes in all: {ADVICE}"
                )
            header = file.read(length)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason_for(error)}): {ADVICE}") from None
    begin = 8 + length
    known = decode_json(header, dict[str, object], path, ADVICE)
    known.pop("__metadata__", None)
    tensors = {}
    for name, entry in check_value(known, dict[str, Entry], path, ADVICE).items():
        if entry.dtype not in STORED:
            raise UserError(
                f"{path} holds {shown(name, 60)} as {shown(entry.dtype)}, which is not supported "
                "(supported: F32, F16, BF16)"
            )
        first, end = entry.data_offsets
        needed = math.prod(entry.shape) * np.dtype(STORED[entry.dtype]).itemsize
        if end - first != needed or begin + end > size:
            raise UserError(
                f"{path} is cut or damaged: {shown(name, 60)} needs {needed} bytes, from {first} "
                f"to {end} of {size - begin}: {ADVICE}"
            )
        tensors[name] = Tensor(path, entry.dtype, tuple(entry.shape), begin + first)
    return tensors
