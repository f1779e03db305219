"""Paths and files, handled in one way on every system: every failure is a UserError of one
sentence.

A file is replaced *atomically*. The new content is written to a file next to the old one, flushed
to the disk, and renamed to the old name. Then the folder is flushed. Whatever happens in between (a
kill, a full disk, a power cut), the path holds the whole old file or the whole new one.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from minimtp.errors import UserError

PARTIAL = ".partial"  # suffix of a file that is still being written


def kind_at(path: str | Path) -> str:
    """Return "folder", "file", "other" or "nothing".

    Raises UserError if the path is invalid or this process may not look at it.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:  # a link that leads to itself
            return "nothing"
        raise UserError(
            f"{path} cannot be reached ({reason_for(error)}): give another path"
        ) from None
    return "folder" if S_ISDIR(mode) else "file" if S_ISREG(mode) else "other"


def make_folder(folder: str | Path) -> Path:
    """Create the folder and its parents if they do not exist. Raises UserError if that fails."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be made ({reason_for(error)}): choose another --out"
        ) from None
    return Path(folder)


def write_text(path: Path, text: str, shared: bool = False) -> None:
    """Replace a small text file atomically. `shared` and the errors are the same as for
    `atomic_write`.
    """
    with atomic_write(path, shared) as partial:
        partial.write_bytes(text.encode("utf-8"))


@contextlib.contextmanager
def atomic_write(path: Path, shared: bool = False) -> Iterator[Path]:
    """Give the block a path to write to, and move that file to `path` when the block ends.

    The partial file is in the folder of `path`. It is deleted if the block raises. A kill leaves it
    behind, and the next write replaces it.
    shared: other processes may write the same path at the same time, so each has its own partial
    file.

    Raises UserError if the file cannot be written.
    """
    owner = f".{os.getpid()}" if shared else ""
    partial = path.with_name(path.name + owner + PARTIAL)
    try:
        yield partial
        move_into_place(partial, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({reason_for(error)}): "
            "free disk space, or choose another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # it was moved, was never written, or cannot be accessed
            partial.unlink()


def move_into_place(partial: Path, path: Path) -> None:
    """Flush the file `partial` to the disk, rename it to `path`, and flush the folder."""
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    if os.name == "posix":  # elsewhere folders cannot be opened, and renames are durable without it
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def reason_for(error: Exception) -> str:
    """Return the reason of a failure in a few words: the system's own words if it has any."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), type(error).__name__)
