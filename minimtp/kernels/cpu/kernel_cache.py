"""Numba's cache of compiled kernels, made safe against damaged files.

**Problem.** Numba stores each compiled function in two kinds of files, an index (.nbi) and machine
code (.nbc), and trusts what it reads back. A file that a full disk or a power cut left empty ends
every later run with an unpickling error. Changed machine code is executed.

**Idea.** Each file ends with a seal: a digest of its name and content. A file without the right
seal is treated as missing, so the function is compiled again and the file is replaced. Pickle stops
at the end of the content, so Numba's own code still reads the file. Checking all files of a command
takes a few milliseconds.

Nothing that goes wrong with the cache stops a command. Each kind of trouble costs one line.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

from numba.core.caching import FunctionCache, IndexDataCacheFile

from minimtp.errors import UserError
from minimtp.files import kind_at, reason_for
from minimtp.records import notice

SEAL_BYTES = 32
_said: set[str] = set()


class KernelCache(FunctionCache):
    """The cache of one function. source_stamp: stands for all files that the function depends on;
    a cache with another stamp is out of date.

    Raises RuntimeError if Numba finds no folder that it can write to.
    """

    def __init__(self, function, source_stamp: float) -> None:
        super().__init__(function)
        self._cache_file = SealedCacheFile(
            cache_path=self.cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=(*self._impl.locator.get_source_stamp(), source_stamp),
        )

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a valid file that this Numba or this system cannot use
            _say_once(
                f"{self.cache_path}: a compiled kernel cannot be loaded ({reason_for(error)}): "
                "it is compiled again"
            )
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _say_once(
                f"{self.cache_path}: compiled kernels cannot be stored ({reason_for(error)}): "
                "they are kept for this run only"
            )


class SealedCacheFile(IndexDataCacheFile):
    """Numba's reader and writer of the two files, with a seal at the end of each.

    Machine code is stored together with its signature and the stamp of its sources. Otherwise the
    index could lead to other code: if two processes compile at once, or if one is killed between
    the two files.
    """

    def save(self, key: tuple, data: object) -> None:
        super().save(key, (self._source_stamp, key, data))

    def load(self, key: tuple) -> object | None:
        found = super().load(key)
        is_right = type(found) is tuple and found[:2] == (self._source_stamp, key)
        return found[2] if is_right else None

    def _load_index(self) -> dict:
        return super()._load_index() if _is_sealed(self._index_path) else {}

    def _load_data(self, name: str):
        if not _is_sealed(self._data_path(name)):
            raise OSError("damaged")  # Numba then compiles the function
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + _seal(filepath, content.getvalue()))


def _is_sealed(path: str) -> bool:
    """Return whether the file has the right seal. Says so if there is a file without it."""
    try:
        if kind_at(path) == "nothing":
            return False
        if kind_at(path) == "file":
            with open(path, "rb") as file:
                content = file.read()
            if _seal(path, content[:-SEAL_BYTES]) == content[-SEAL_BYTES:]:
                return True
    except (OSError, UserError):
        pass
    _say_once(f"{path} is damaged or of an earlier version: the kernel is compiled again")
    return False


def _seal(path: str, content: bytes) -> bytes:
    name = os.path.basename(path).encode(errors="surrogateescape")
    return hashlib.blake2b(content, digest_size=SEAL_BYTES, key=name[:64]).digest()


def _say_once(sentence: str) -> None:
    """Print the line, but only the first one of its kind."""
    kind = sentence.rpartition(":")[2]
    if kind not in _said:
        _said.add(kind)
        notice(sentence)
