"""Write safetensors files array by array, read or map them, and compute their checksums.

A safetensors file holds the length of its header (8 bytes, little-endian), the header (JSON), and
the bytes of the arrays, in any order but without gaps.
https://github.com/huggingface/safetensors

**Reading trusts nothing.** The length of the header is compared with the size of the file before
the header is read. Types, shapes and offsets are checked before memory for an array is allocated.
So a damaged file never takes more memory than its own size suggests.
"""

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, BinaryIO

from msgspec import Meta, Struct

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.errors import UserError, shown
from minimtp.files import advice_to_read, reason_for
from minimtp.records import Count, check_value, parse_json
from minimtp.training.build import Arrays

MAX_HEADER_BYTES = 100 * 10**6  # the limit of the safetensors library

DTYPE_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "uint16": "BF16",  # NumPy has no bfloat16. These are its bits, the upper half of a float32.
}
DTYPES = {stored: np.dtype(name) for name, stored in DTYPE_NAMES.items()}


def write_safetensors(file: BinaryIO, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write the arrays and the metadata to an open file.

    The library's own writer takes a path, where it makes a temporary file that a kill would leave
    behind, readable only by its owner. This function writes array by array, so it also needs no
    second copy of the model in memory.
    """
    # Wide types come first, so every array is aligned to the size of its elements.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name in names:
        end = start + arrays[name].nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[arrays[name].dtype.name],
            "shape": list(arrays[name].shape),
            "data_offsets": [start, end],
        }
        start = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    for name in names:
        file.write(_bytes(arrays[name]))


class Entry(Struct):
    """One array in the header of a file."""

    dtype: str
    shape: Annotated[list[Count], Meta(max_length=32)]
    data_offsets: tuple[Count, Count]


@dataclass(frozen=True)
class TensorFile:
    """An open safetensors file whose header has been checked.

    start: the position in the file at which the bytes of the arrays begin. advice: what the user
    can do about a damaged file.
    """

    path: Path
    file: BinaryIO
    start: int
    metadata: dict[str, str]
    entries: dict[str, Entry]
    advice: str

    def read_arrays(self) -> Arrays:
        """Return copies of all arrays. Raises UserError if the file ends early."""
        return {name: self.read(name) for name in self.entries}

    def read(self, name: str, first: int = 0, last: int | None = None) -> Array:
        """Return a copy of one array, or of its rows first..last-1. Raises UserError if the file
        ends early.
        """
        entry = self.entries[name]
        shape, start = tuple(entry.shape), self.start + entry.data_offsets[0]
        if last is not None:
            row_bytes = (entry.data_offsets[1] - entry.data_offsets[0]) // shape[0]
            shape, start = (last - first, *shape[1:]), start + first * row_bytes
        array = np.empty(shape, DTYPES[entry.dtype])
        self.file.seek(start)
        if self.file.readinto(_bytes(array)) != array.nbytes:
            raise damaged(self.path, "it ends early", self.advice)
        return array

    def map_arrays(self) -> Arrays:
        """Map the arrays into memory.

        The system reads each page when it is first used, and shares it with every process that maps
        the file. Writing to an array changes neither the file nor the other processes (copy on
        write).
        """
        content = np.asarray(np.memmap(self.file, np.uint8, "c", offset=self.start))
        return {
            name: content[slice(*entry.data_offsets)].view(DTYPES[entry.dtype]).reshape(entry.shape)
            for name, entry in self.entries.items()
        }


@contextmanager
def open_tensors(path: Path, advice: str) -> Iterator[TensorFile]:
    """Open a safetensors file and check its header against the size of the file.

    Raises UserError if the file cannot be read or is not a safetensors file.
    """
    try:
        with open(path, "rb") as file:
            yield _checked(path, file, advice)
    except OSError as error:
        remedy = advice_to_read(error, advice)
        raise UserError(f"{path} cannot be read ({reason_for(error)}): {remedy}") from None


def damaged(path: Path, reason: str, advice: str) -> UserError:
    """Return the error that says what is wrong with a file."""
    return UserError(f"{path} is damaged ({reason}): {advice}")


def _checked(path: Path, file: BinaryIO, advice: str) -> TensorFile:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if size < 8 or start > size:
        raise damaged(path, f"its header does not fit into its {size:,} bytes", advice)
    if length > MAX_HEADER_BYTES:
        raise damaged(path, f"its header has {length:,} bytes", advice)
    value = parse_json(file.read(length), path, advice)
    metadata = value.pop("__metadata__", {}) if isinstance(value, dict) else {}
    metadata = check_value({"__metadata__": metadata}, dict[str, dict[str, str]], path, advice)
    entries = check_value(value, dict[str, Entry], path, advice)
    for name, entry in entries.items():
        if entry.dtype not in DTYPES:
            raise UserError(
                f"{path} holds {shown(name, 60)} as {shown(entry.dtype)}, which is not supported: "
                f"{advice}"
            )
        if fault := _fault(entry):
            raise damaged(path, f"array {shown(name)} {fault}", advice)
    position = 0
    for begin, end in sorted(entry.data_offsets for entry in entries.values()):
        if begin != position:
            raise damaged(path, "its arrays overlap or leave gaps", advice)
        position = end
    if start + position != size:
        raise damaged(path, f"{start + position:,} bytes are needed, not {size:,}", advice)
    return TensorFile(path, file, start, metadata["__metadata__"], entries, advice)


def _fault(entry: Entry) -> str | None:
    """Return what is wrong with an entry on its own, or None."""
    begin, end = entry.data_offsets
    if end - begin != prod(entry.shape) * DTYPES[entry.dtype].itemsize:
        return f"has the shape {shown(entry.shape)} but {end - begin:,} bytes"
    # NumPy allocates nothing here, but refuses shapes that it cannot represent.
    return None if prod(max(1, side) for side in entry.shape) < 2**60 else "has an absurd shape"


def checksum(header: str, arrays: Arrays) -> int:
    """Return the CRC-32 of the header and of all arrays, in the order of their names."""
    value = zlib.crc32(header.encode())
    for name in sorted(arrays):
        value = zlib.crc32(name.encode("utf-8", "surrogatepass"), value)  # JSON may escape halves
        value = zlib.crc32(_bytes(arrays[name]), value)
    return value


def _bytes(array: np.ndarray) -> memoryview:
    """Return the bytes of the array in C order, without a copy if they are stored in that order."""
    return memoryview(array.reshape(-1).view(np.uint8))
