"""Write safetensors files array by array, map them into memory, and compute their checksums.

A safetensors file holds the length of its header (8 bytes, little-endian), the header (JSON), and
the bytes of the arrays in the order of the header.
https://github.com/huggingface/safetensors
"""

import json
import zlib
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.training.build import Arrays

DTYPE_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int8": "I8",
    "uint8": "U8",
}


def write_safetensors(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write the arrays and the metadata to `path`.

    The library's own writer uses a temporary file with a random name. A kill would leave that file
    behind, readable only by its owner. This function writes to one known name, array by array, so
    it also needs no second copy of the model in memory.
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
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in names:
            file.write(_bytes(arrays[name]))


def map_arrays(path: Path) -> Arrays:
    """Map the arrays of a safetensors file into memory. The file must be valid.

    The system reads each page when it is first used, and shares it with every process that maps the
    file. Writing to an array changes neither the file nor the other processes (copy on write).
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    content = np.asarray(np.memmap(path, np.uint8, "c", offset=8 + length))
    dtypes = {stored: np.dtype(name) for name, stored in DTYPE_NAMES.items()}
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            flat = content[slice(*entry["data_offsets"])].view(dtypes[entry["dtype"]])
            arrays[name] = flat.reshape(entry["shape"])
    return arrays


def checksum(header: str, arrays: Arrays) -> int:
    """Return the CRC-32 of the header and of all arrays, in the order of their names."""
    value = zlib.crc32(header.encode())
    for name in sorted(arrays):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(_bytes(arrays[name]), value)
    return value


def _bytes(array: np.ndarray) -> memoryview:
    """Return the bytes of the array in C order, without a copy if they are stored in that order."""
    return memoryview(array.reshape(-1).view(np.uint8))
