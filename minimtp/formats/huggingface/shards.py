"""The safetensors files of a Hugging Face folder: one, or several with an index.

Tensors are read a slice at a time and become float32, so that loading needs hardly more memory than
the model. NumPy has no bfloat16, but a bfloat16 is the upper half of a float32.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from minimtp.backend import Array
from minimtp.errors import UserError, shown
from minimtp.files import kind_at
from minimtp.kernels.plain.bfloat16 import from_bfloat16_bits
from minimtp.records import read_json
from minimtp.training.run.tensor_file import TensorFile, open_tensors

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADVICE = "give a complete copy of the folder"
# Of a file with weights. Other names than these could lead out of the folder.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,249}")
FLOATS = ("F32", "F16", "BF16")
NUMBERS_AT_ONCE = 1 << 19


class StoredTensor(NamedTuple):
    """A tensor in an open file."""

    file: TensorFile
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file.entries[self.name].shape)

    def read_into(self, target: Array) -> None:
        """Write the tensor to a float32 array of its shape. Raises UserError for other numbers than
        floats.
        """
        dtype = self.file.entries[self.name].dtype
        if dtype not in FLOATS:
            raise UserError(
                f"{self.file.path} holds {shown(self.name, 60)} as {dtype}, which is not "
                f"supported (supported: {', '.join(FLOATS)})"
            )
        at_once = max(1, NUMBERS_AT_ONCE * len(target) // max(1, target.size))
        for first in range(0, len(target), at_once):
            last = min(first + at_once, len(target))
            stored = self.file.read(self.name, first, last)
            if dtype == "BF16":
                stored = from_bfloat16_bits(stored)
            target[first:last] = stored


class Index(Struct):
    """The content of the index: the file of each tensor."""

    weight_map: dict[str, str]


@contextmanager
def open_shards(folder: Path) -> Iterator[dict[str, StoredTensor]]:
    """Open the files of the folder, and give the block their tensors by name.

    Raises UserError if a file is missing or damaged, or lacks a tensor that the index promises.
    """
    with ExitStack() as stack:

        def open_file(name: str) -> TensorFile:
            if kind_at(folder / name) != "file":
                raise UserError(f"{folder / name} is not a file or does not exist: {ADVICE}")
            return stack.enter_context(open_tensors(folder / name, ADVICE))

        if not os.path.lexists(folder / INDEX):
            whole = open_file(WHOLE)
            yield {name: StoredTensor(whole, name) for name in whole.entries}
            return
        promised = read_json(folder / INDEX, Index, advice=ADVICE).weight_map
        files: dict[str, TensorFile] = {}
        for name, file in promised.items():
            if not FILE_NAME.fullmatch(file):
                raise UserError(
                    f"{folder / INDEX} names the file {shown(file) or repr(file)}, which cannot be "
                    f"a file of this folder: {ADVICE}"
                )
            if file not in files:
                files[file] = open_file(file)
            if name not in files[file].entries:
                raise UserError(
                    f"{folder / file} lacks {shown(name, 60)}, which {INDEX} promises: {ADVICE}"
                )
        yield {name: StoredTensor(files[file], name) for name, file in promised.items()}
