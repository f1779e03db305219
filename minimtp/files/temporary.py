"""Files and folders with unique names, which exist until their content is complete.

A writer holds a lock on what it writes. The system releases the lock when the process ends, however
it ends. So whatever is not locked was left behind by a killed process. On a file system without
locks this cannot be told, and left-over files stay.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from minimtp.files.paths import SAFELY

NAME = re.compile(r"\.minimtp-[0-9a-f]{16}\.partial")
# Windows needs no lock, because it does not delete an open file. It cannot open a folder.
LOCKED = os.name == "posix"


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed.

    Returns whether that succeeded: False if somebody else holds the lock, None if the file system
    has no locks.
    """
    from filelock import lock_descriptor

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return None


@contextlib.contextmanager
def new_file(folder: Path) -> Iterator[BinaryIO]:
    """Create a file with a unique name, `file.name`, and delete it after the block."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY
    tried: list[Path] = []
    try:
        descriptor = _claim(folder, lambda path: os.open(path, flags, 0o666), tried)
        with open(tried[-1], "wb", opener=lambda path, flags: descriptor) as file:
            yield file
    finally:
        for path in tried:
            with contextlib.suppress(OSError):  # it was moved, or cannot be accessed
                os.unlink(path)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Create a folder with a unique name in `folder`, and delete it after the block."""

    def make(path: Path) -> int | None:
        path.mkdir()
        return os.open(path, os.O_RDONLY | SAFELY) if LOCKED else None

    tried: list[Path] = []
    descriptor = None
    try:
        descriptor = _claim(folder, make, tried)
        yield tried[-1]
    finally:
        for path in tried:
            shutil.rmtree(path, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def unused_path(folder: Path) -> Path:
    """Return a path with a unique name, which counts as left behind until it is moved."""
    return folder / f".minimtp-{secrets.token_hex(8)}.partial"


def delete_leftovers(folder: Path) -> None:
    """Delete what killed processes left in the folder. Whatever cannot be deleted stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _delete_unlocked(Path(entry.path), entry.is_dir(follow_symlinks=False))


def _claim(folder: Path, create: Callable[[Path], int | None], tried: list[Path]) -> int | None:
    """Create something and lock it. Returns its descriptor. Its path is the last one in `tried`.

    tried: receives each path before anything is created there. Ctrl-C may come at any moment, and
    the caller then deletes what is there.
    """
    while True:
        path = unused_path(folder)
        tried.append(path)
        try:
            descriptor = create(path)
        except FileExistsError:
            tried.pop()  # it is not ours
            raise
        # Another process may take it for left over before it is locked. Then start again.
        if not LOCKED or (try_lock(descriptor) is not False and os.path.lexists(path)):
            return descriptor
        os.close(descriptor)


def _delete_unlocked(path: Path, is_folder: bool) -> None:
    access = os.O_RDONLY if is_folder else os.O_RDWR
    descriptor = os.open(path, access | SAFELY) if LOCKED else None
    try:
        if descriptor is None or try_lock(descriptor):
            shutil.rmtree(path) if is_folder else os.unlink(path)
    finally:
        if descriptor is not None:
            os.close(descriptor)
