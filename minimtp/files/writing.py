"""The functions that write files. Their rules are in this package's docstring."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from minimtp.errors import UserError
from minimtp.files import temporary
from minimtp.files.paths import (
    SAFELY,
    FileKind,
    advice_for,
    cannot_write,
    check_file,
    check_regular,
    head_of,
    kind_at,
    make_folder,
    reason_for,
)
from minimtp.quoting import shown_path

ATTEMPTS = 16  # to write 64 KiB more to a file that could not be written


@contextlib.contextmanager
def atomic_write(path: str | Path, kind: FileKind) -> Iterator[BinaryIO]:
    """Give the block a new file to write to, and move it to `path` when the block ends.

    Until then the file is in the same folder, under the name `file.name`. It is deleted if the
    block raises.

    Raises UserError if `path` may not be written (`check_file`), or if writing fails.
    """
    path = Path(path)
    check_file(path, kind)
    make_folder(path.parent)
    try:
        temporary.delete_leftovers(path.parent)
        with temporary.new_file(path.parent) as file:
            try:
                yield file
                file.flush()
            except OSError as error:
                raise _with_reason(error, file.fileno()) from None
            os.fsync(file.fileno())
            if os.name != "posix":  # Windows does not move an open file
                file.close()
            move_into_place(Path(file.name), path, kind)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_text(path: str | Path, text: str, kind: FileKind) -> None:
    """Write a small text file, as `atomic_write` does."""
    with atomic_write(path, kind) as file:
        file.write(text.encode("utf-8"))


def move_into_place(partial: Path, path: Path, kind: FileKind) -> None:
    """Rename the file `partial` to `path`, and flush the folder to the disk.

    Raises UserError if anything but a file of this kind is at `path` by now.
    """
    if check_file(path, kind) or not _linked(partial, path):
        check_file(path, kind)
        os.replace(partial, path)
    _flush_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: Path, mark: str | None = None) -> Iterator[Path]:
    """Give the block a new folder to fill, and move it to `path` when the block ends.

    mark: the name of an empty file in the folder, which shows that minimtp made the folder. A
    folder at `path` is replaced if it has this mark. None: only an empty folder is replaced.

    Raises UserError if anything else is at `path`, or if writing fails.
    """
    check_new_folder(path, mark)
    make_folder(path.parent)
    try:
        temporary.delete_leftovers(path.parent)
        with temporary.new_folder(path.parent) as partial:
            if mark is not None:
                (partial / mark).touch()
            with _named(path, partial):
                yield partial
            check_new_folder(path, mark)
            before = temporary.unused_path(path.parent)
            if os.path.lexists(path):
                os.rename(path, before)
            os.rename(partial, path)
            shutil.rmtree(before, ignore_errors=True)
        _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None


@contextlib.contextmanager
def _named(path: Path, partial: Path) -> Iterator[None]:
    """Let the errors of files in the folder `partial` name `path` instead, which the user knows."""
    try:
        yield
    except UserError as error:
        reason, message = error.__context__, str(error)
        if isinstance(reason, OSError) and (partial.name in message or "..." in message):
            raise cannot_write(path, reason) from None
        raise


def _with_reason(error: OSError, descriptor: int) -> OSError:
    """Return the error of the system behind a failed write to this file, which is given up.

    NumPy says only how much it has written. Then the system is asked again, at the file's end.
    """
    if error.errno is not None or not hasattr(os, "pwrite"):
        return error
    try:
        end = os.fstat(descriptor).st_size
        for _ in range(ATTEMPTS):
            end += os.pwrite(descriptor, bytes(2**16), end)
    except OSError as found:
        return found
    return error


class AppendedFile:
    """An existing file to which text is appended, without a delay."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = self._open()

    def write(self, text: str) -> None:
        """Append the text. If the file was deleted in the meantime, begin a new one.

        Raises UserError if that fails.
        """
        try:
            if not os.fstat(self._descriptor).st_nlink:
                deleted, self._descriptor = self._descriptor, self._open(os.O_CREAT | os.O_EXCL)
                os.close(deleted)
            rest = memoryview(text.encode("utf-8"))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self, flags: int = 0) -> int:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | SAFELY | flags, 0o666)
        except OSError as error:
            raise cannot_write(self._path, error) from None


def set_aside(path: Path, kind: FileKind, silent: bool = False) -> Path:
    """Rename the file at `path` if it is not of this kind, and say so in one line. Returns where
    the file is now. silent: the caller has said what is wrong with the file.

    For caches and logs, which must not stop a command. Raises UserError if `path` is no ordinary
    file, or cannot be renamed.
    """
    if not check_regular(path) or kind.matches(head_of(path)):
        return path
    number = 1
    while os.path.lexists(kept := path.with_name(f"{path.name}.{number}")):
        number += 1
    try:
        os.rename(path, kept)
    except OSError as error:
        raise cannot_write(path, error) from None
    if not silent and sys.stderr is not None:
        line = f"minimtp: {shown_path(path)} is not {kind.name}: it was renamed to {kept.name}"
        print(line, file=sys.stderr)
    return kept


def delete(path: Path, kind: FileKind) -> None:
    """Delete a file of this kind if it is there. Raises UserError if something else is there."""
    try:
        if check_file(path, kind):
            os.unlink(path)
    except OSError as error:
        raise UserError(
            f"{shown_path(path)} cannot be deleted ({reason_for(error)}): {advice_for(error)}"
        ) from None


def _linked(partial: Path, path: Path) -> bool:
    """Give the file `partial` the name `path` too, which was free. Returns False if that fails: the
    name is taken by now, or the file system has no hard links.

    Unlike a rename, this never replaces a file. The first name is deleted at the end of its block.
    """
    try:
        os.link(partial, path)
    except (OSError, NotImplementedError):
        return False
    return True


def check_new_folder(path: Path, mark: str | None = None) -> None:
    """Raise UserError unless `path` is free, an empty folder, or one that minimtp made."""
    if not os.path.lexists(path):
        return
    own = not os.path.islink(path) and kind_at(path) == "folder"
    if not (own and (mark and kind_at(path / mark) == "file" or not os.listdir(path))):
        what = "an empty folder" if mark is None else "a folder that minimtp made"
        raise UserError(
            f"{shown_path(path)} exists and is not {what}: choose another path, or move it away"
        )


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere folders cannot be opened, and renames are durable without it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
