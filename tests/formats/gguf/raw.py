"""GGUF files written value by value, also ones that no honest program would write."""

import struct
from collections.abc import Mapping

from minimtp.backend import numpy as np
from minimtp.formats.gguf.container import (
    ARRAY,
    SCALARS,
    STRING,
    TENSOR_TYPES,
    GgufFile,
    Value,
    open_gguf,
)

NUMBERS = {name: number for number, (name, _) in SCALARS.items()}
TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


def text(value: str | bytes) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def typed(value: Value) -> bytes:
    """Return the type and the bytes of a value. The type "raw" is written as it is."""
    kind, content = value
    if kind == "raw":
        return content
    if kind == "string":
        return struct.pack("<I", STRING) + text(content)
    if kind.startswith("array of "):
        element = kind.removeprefix("array of ")
        if element == "string":
            number, body = STRING, b"".join(map(text, content))
        else:
            number = NUMBERS[element]
            body = np.asarray(content, np.dtype(SCALARS[number][1]).newbyteorder("<")).tobytes()
        return struct.pack("<IIQ", ARRAY, number, len(content)) + body
    number = NUMBERS[kind]
    return struct.pack("<I", number) + struct.pack("<" + SCALARS[number][1], content)


class Tensor:
    """A tensor to write. offset: what the file claims (None: the truth)."""

    def __init__(self, kind, shape, content, offset=None):
        self.kind, self.shape, self.content, self.offset = kind, tuple(shape), content, offset


def contents(path) -> tuple[dict[str, Value], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file, to change them and write them again."""
    file: GgufFile = open_gguf(path)
    tensors = {
        name: Tensor(t.type, t.shape, bytes(file.content[t.start : t.start + t.size]))
        for name, t in file.tensors.items()
    }
    return dict(file.metadata), tensors


def file_bytes(
    metadata: Mapping[str, Value], tensors: Mapping[str, Tensor], alignment: int = 32
) -> bytes:
    """Return the bytes of a file with these contents."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(text(key) + typed(value) for key, value in metadata.items())
    data, directory = b"", b""
    for name, tensor in tensors.items():
        number = tensor.kind if isinstance(tensor.kind, int) else TYPE_NUMBERS[tensor.kind]
        directory += text(name) + struct.pack("<I", len(tensor.shape))
        directory += b"".join(struct.pack("<Q", size) for size in reversed(tensor.shape))
        offset = len(data) if tensor.offset is None else tensor.offset
        directory += struct.pack("<IQ", number, offset)
        data += tensor.content + bytes(-len(tensor.content) % alignment)
    head += directory
    return head + bytes(-len(head) % alignment) + data
