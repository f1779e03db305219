"""A file of equal blocks, filled in any order: data that can be computed again.

Unlike everything else that minimtp writes, such a file is changed in place, because it may be
larger than the memory, and is complete only late, if ever. So each block carries a seal, its
CRC-32. A block that was being written when the process was killed, or that was damaged since, does
not match its seal, and counts as missing.

    header   4,096 bytes: what the file is, and a line of text that says what the blocks belong to
    block    8 bytes of seal, then the data
"""

import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

from minimtp.files.paths import SAFELY, FileKind, cannot_write, head_of, kind_at
from minimtp.files.writing import atomic_write, delete, set_aside
from minimtp.quoting import shown_path

HEADER_BYTES = 4096
SEAL = b"SEAL"  # precedes the CRC, so a block of zeros, a hole in the file, has no valid seal


class SealedBlocks:
    """The file at `path`, opened if its blocks belong to `label`, and otherwise begun anew.

    kind: begins every such file. label: one short line that names everything the blocks depend on.
    block_bytes: the size of each block. notice: called with a line if the present file is of no
    use, or if a block is damaged.

    Several threads may read and write. Raises UserError if the file cannot be opened or begun.
    """

    def __init__(
        self,
        path: Path,
        kind: FileKind,
        label: str,
        block_bytes: int,
        notice: Callable[[str], None],
    ) -> None:
        self.path, self.kind, self.block_bytes, self._notice = path, kind, block_bytes, notice
        header = (kind.begins + label.encode() + b"\n").ljust(HEADER_BYTES)
        if len(header) > HEADER_BYTES:
            raise ValueError(f"a label of {len(label)} characters is too long")
        set_aside(path, kind)
        if kind_at(path) == "file" and head_of(path) != header:
            notice(f"{shown_path(path)} belongs to another run or is damaged: it is begun anew")
            delete(path, kind)
        if kind_at(path) != "file":
            with atomic_write(path, kind) as file:
                file.write(header)
        try:
            self._file = open(
                path, "r+b", buffering=0, opener=lambda path, flags: os.open(path, flags | SAFELY)
            )
        except OSError as error:
            raise cannot_write(path, error) from None
        self._lock = threading.Lock()
        self._damaged = False

    def read(self, index: int) -> bytes | None:
        """Return the data of a block, or None if it is missing or damaged."""
        with self._lock:
            try:
                self._file.seek(self._place(index))
                seal, data = self._file.read(8), self._file.read(self.block_bytes)
            except OSError:  # a failing disk: the block is computed again
                return None
        if seal == _seal(data) and len(data) == self.block_bytes:
            return data
        if seal.strip(b"\0") and not self._damaged:
            self._damaged = True
            self._notice(f"{shown_path(self.path)} is damaged: what is lost is computed again")
        return None

    def write(self, index: int, data: bytes) -> None:
        """Store a block. Raises UserError if that fails, and the block then counts as missing."""
        content = memoryview(_seal(data) + data)
        try:
            with self._lock:
                self._file.seek(self._place(index))
                while content:
                    content = content[self._file.write(content) :]
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def delete(self) -> None:
        """Close and delete the file."""
        self.close()
        delete(self.path, self.kind)

    def _place(self, index: int) -> int:
        return HEADER_BYTES + index * (8 + self.block_bytes)


def _seal(data: bytes) -> bytes:
    return SEAL + zlib.crc32(data).to_bytes(4, "little")
