"""The container: what any GGUF file holds, before anything in it is believed.

    "GGUF" | version | number of tensors | number of entries
    entries: key, type, value             the metadata
    tensors: name, shape, type, offset    the directory
    padding to a multiple of the alignment, then the bytes of the tensors

Lengths and counts come from the file, so a damaged or hostile file may claim anything. The reader
compares every length with the bytes that are left before it reads, allocates or repeats anything.
Its time and its memory are therefore bounded by the size of the file. Arrays are nested at most
MAX_NESTING deep. Entries that nobody asks for are skipped, not decoded. The tensors are mapped into
memory, so the system reads them when they are used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.errors import UserError, shown
from minimtp.files import advice_to_read, kind_at, reason_for
from minimtp.kernels.plain.bfloat16 import from_bfloat16_bits

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LENGTH = struct.Struct("<Q")
MAX_NESTING = 4
MAX_DIMENSIONS = 4
ALIGNMENT = "general.alignment"
STRING, ARRAY = 8, 9
SCALARS = {  # by the number of the type: a name for messages, and the format of struct
    0: ("uint8", "B"), 1: ("int8", "b"), 2: ("uint16", "H"), 3: ("int16", "h"),
    4: ("uint32", "I"), 5: ("int32", "i"), 6: ("float32", "f"), 7: ("bool", "?"),
    10: ("uint64", "Q"), 11: ("int64", "q"), 12: ("float64", "d"),
}  # fmt: skip
NAMES = {number: name for number, (name, _) in SCALARS.items()} | {STRING: "string", ARRAY: "array"}
# The types of tensors that ggml still writes: name, weights per block, bytes per block.
TENSOR_TYPES = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22), 7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110), 12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50), 20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136), 24: ("i8", 1, 1), 25: ("i16", 1, 2),
    26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8), 29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
}  # fmt: skip
ALL = slice(None)
FLOATS = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}


class Value(NamedTuple):
    """A metadata value. type: "uint32", "string", "array of int32", ...

    An array of numbers is a NumPy array (N,), any other array is a list.
    """

    type: str
    value: object


class Tensor(NamedTuple):
    """A tensor in the directory. shape: (rows, columns), or as many numbers as it has dimensions.
    start: its first byte in the file.
    """

    type: str
    shape: tuple[int, ...]
    start: int
    size: int  # bytes


class GgufFile(NamedTuple):
    """An opened file. content: all of its bytes, uint8, mapped into memory (copy on write).
    mapping: the same as the system's object.
    """

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, Tensor]
    content: Array
    mapping: mmap.mmap

    def array(self, name: str, rows: slice = ALL) -> Array:
        """Return a tensor or some of its rows: float32 or float16 (shape), bfloat16 as float32, or
        blocks as uint8 (rows, bytes per row). Only bfloat16 is copied.
        """
        tensor = self.tensors[name]
        stored = self.content[tensor.start : tensor.start + tensor.size]
        stored = stored.reshape(tensor.shape[0], -1)[rows]
        shape = len(stored), *tensor.shape[1:]
        if tensor.type in FLOATS:
            return stored.reshape(-1).view(FLOATS[tensor.type]).reshape(shape)
        if tensor.type == "bf16":  # the upper half of a float32
            halves = stored.reshape(-1).view("<u2")
            return from_bfloat16_bits(halves).reshape(shape)
        return stored

    def forget(self, name: str) -> None:
        """Let the system take back the memory of a tensor that nothing points into. It would be
        read from the file again.
        """
        tensor, page = self.tensors[name], mmap.PAGESIZE
        first, last = -(-tensor.start // page), (tensor.start + tensor.size) // page
        if hasattr(mmap, "MADV_DONTNEED") and last > first:
            self.mapping.madvise(mmap.MADV_DONTNEED, first * page, (last - first) * page)


class DamagedError(Exception):
    """The bytes contradict the format. The message says what was found, without the path."""


def is_gguf(path: str | Path) -> bool:
    """Return whether the file begins as a GGUF file does. Raises UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str | Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({reason_for(error)}): {advice_to_read(error)}")


def open_gguf(path: str | Path, wanted: Callable[[str], bool] = lambda key: True) -> GgufFile:
    """Read the metadata and the directory, and map the tensors into memory.

    wanted: which entries of the metadata to decode.

    Raises UserError if the file is missing, cannot be read, is damaged or is not a GGUF file.
    """
    path = Path(path)
    if kind_at(path) != "file":
        raise UserError(f"there is no file {path}: give a GGUF file")
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise DamagedError(f"it does not begin with {MAGIC.decode()}")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        metadata, tensors = _Parser(content).parse(wanted)
    except OSError as error:
        raise _unreadable(path, error) from None
    except DamagedError as error:
        raise UserError(
            f"{path} is damaged, or is not a GGUF file ({error}): give another file"
        ) from None
    return GgufFile(path, metadata, tensors, np.frombuffer(content, np.uint8), content)


class _Parser:
    """Reads the header of a file from its bytes."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at, self.end = content, len(MAGIC), len(content)

    def parse(self, wanted: Callable[[str], bool]) -> tuple[dict[str, Value], dict[str, Tensor]]:
        version = self.number("I")
        if version not in VERSIONS:
            raise DamagedError(f"version {version}, but {' and '.join(map(str, VERSIONS))} are "
                               "known, little-endian")  # fmt: skip
        tensor_count, entry_count = self.number("Q"), self.number("Q")
        metadata, seen = {}, set()
        for _ in range(self.count(entry_count, 13, "entries")):  # a key, a type, a byte
            key = self.text("a key")
            if key in seen:
                raise DamagedError(f"{short(key)} is there twice")
            seen.add(key)
            kind = self.number("I")
            if key == ALIGNMENT or wanted(key):
                metadata[key] = self.value(kind, key)
            else:
                self.skip(kind, key)
        directory = [self.tensor() for _ in range(self.count(tensor_count, 24, "tensors"))]
        return metadata, self.located(directory, _alignment(metadata))

    def take(self, size: int, what: str) -> int:
        """Return where the next `size` bytes begin, and move past them."""
        start = self.at
        if size > self.end - start:
            raise DamagedError(f"it ends within {short(what)}")
        self.at = start + size
        return start

    def number(self, code: str) -> int | float | bool:
        start = self.take(struct.calcsize(code), "its header")
        return struct.unpack_from("<" + code, self.content, start)[0]

    def count(self, count: int, least: int, what: str) -> int:
        """Return the count, if that many things of at least `least` bytes fit into the file."""
        if count > (self.end - self.at) // least:
            raise DamagedError(f"it claims {count} {what}, more than fit into it")
        return count

    def text(self, what: str) -> str:
        return self.texts(1, what)[0]

    def texts(self, count: int, what: str) -> list[str]:
        """Return `count` strings. A vocabulary has a hundred thousand of them."""
        found, at, end, content = [], self.at, self.end, self.content
        for _ in range(count):
            start = at + 8
            if start > end:
                raise DamagedError(f"it ends within {short(what)}")
            at = start + LENGTH.unpack_from(content, at)[0]
            if at > end:
                raise DamagedError(f"it ends within {short(what)}")
            try:
                found.append(content[start:at].decode("utf-8"))
            except UnicodeDecodeError:
                raise DamagedError(f"{short(what)} is not UTF-8") from None
        self.at = at
        return found

    def value(self, kind: int, key: str, depth: int = 0) -> Value:
        if kind == STRING:
            return Value("string", self.text(key))
        if kind == ARRAY:
            kind, count = self.array_header(key, depth)
            if kind in SCALARS:
                code = np.dtype(SCALARS[kind][1]).newbyteorder("<")
                start = self.take(count * code.itemsize, key)
                values = np.frombuffer(self.content, code, count, start)
            elif kind == STRING:
                values = self.texts(count, key)
            else:
                values = [self.value(kind, key, depth + 1).value for _ in range(count)]
            return Value(f"array of {NAMES[kind]}", values)
        if kind not in SCALARS:
            raise DamagedError(f"{short(key)} has the unknown type {kind}")
        return Value(SCALARS[kind][0], self.number(SCALARS[kind][1]))

    def skip(self, kind: int, key: str, depth: int = 0) -> None:
        if kind == STRING:
            self.take(self.number("Q"), key)
        elif kind == ARRAY:
            kind, count = self.array_header(key, depth)
            if kind in SCALARS:
                self.take(count * struct.calcsize(SCALARS[kind][1]), key)
            else:
                for _ in range(count):
                    self.skip(kind, key, depth + 1)
        elif kind in SCALARS:
            self.take(struct.calcsize(SCALARS[kind][1]), key)
        else:
            raise DamagedError(f"{short(key)} has the unknown type {kind}")

    def array_header(self, key: str, depth: int) -> tuple[int, int]:
        """Return the type of the elements and their number, which fits into the file."""
        kind, count = self.number("I"), self.number("Q")
        if kind not in NAMES:
            raise DamagedError(f"{short(key)} has elements of the unknown type {kind}")
        if kind == ARRAY and depth + 1 >= MAX_NESTING:
            raise DamagedError(f"{short(key)} is nested more than {MAX_NESTING} arrays deep")
        least = {STRING: 8, ARRAY: 12}.get(kind) or struct.calcsize(SCALARS[kind][1])
        if count > (self.end - self.at) // least:
            raise DamagedError(f"it claims {count} elements in {short(key)}, more than fit into it")
        return kind, count

    def tensor(self) -> tuple[str, str, tuple[int, ...], int, int]:
        """Return (name, type, shape, offset, size in bytes) of the next tensor in the directory."""
        name = self.text("the name of a tensor")
        dimensions = self.number("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise DamagedError(f"{short(name)} has {dimensions} dimensions, not 1 to "
                               f"{MAX_DIMENSIONS}")  # fmt: skip
        sizes = [self.number("Q") for _ in range(dimensions)]
        kind, offset = self.number("I"), self.number("Q")
        if kind not in TENSOR_TYPES:
            raise DamagedError(f"{short(name)} has the unknown type {kind}")
        label, block, block_bytes = TENSOR_TYPES[kind]
        weights = 1
        for size in sizes:
            weights *= size
        if not weights or sizes[0] % block:
            raise DamagedError(f"{short(name)} has rows of {sizes[0]}, not whole blocks of {label}")
        shape = tuple(reversed(sizes))  # the file names the length of the rows first
        return name, label, shape, offset, weights // block * block_bytes

    def located(
        self, directory: list[tuple[str, str, tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, Tensor]:
        """Return the tensors with their places in the file, which do not overlap."""
        first = self.at + -self.at % alignment
        tensors = {}
        for name, kind, shape, offset, size in directory:
            if name in tensors:
                raise DamagedError(f"{short(name)} is there twice")
            if offset % alignment or first + offset + size > self.end:
                raise DamagedError(f"{short(name)} lies outside of the file, or is not aligned")
            tensors[name] = Tensor(kind, shape, first + offset, size)
        end = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            if tensor.start < end:
                raise DamagedError(f"{short(name)} overlaps the tensor before it")
            end = tensor.start + tensor.size
        return tensors


def _alignment(metadata: dict[str, Value]) -> int:
    kind, value = metadata.get(ALIGNMENT, Value("uint32", 32))
    if kind != "uint32" or not 1 <= value <= 2**16 or value & (value - 1):
        raise DamagedError(f"{ALIGNMENT} is {short(value)}, not a power of two up to 65536")
    return value


def short(value: object) -> str:
    """Return a value from a file as a message quotes it."""
    if isinstance(value, list | np.ndarray):
        return f"an array of {len(value)}"
    return shown(value if isinstance(value, str) else repr(value), 60)
