"""The lock of a folder: two commands that write into one folder would destroy each other's work.

The lock is a lock of the operating system on a small file in the folder. It ends with the process
that holds it, however that process ends, so there is nothing to clean up after a crash. The text of
the file names the holder. The file is deleted when the holder is done.

Reading a folder needs no lock, because files are replaced whole.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

from minimtp.errors import UserError, shown
from minimtp.files.paths import (
    HEAD_SIZE,
    SAFELY,
    FileKind,
    cannot_write,
    check_regular,
    make_folder,
    not_own,
)
from minimtp.files.temporary import delete_leftovers, try_lock
from minimtp.quoting import shown_path

NAME = ".minimtp-lock"
LOCK = FileKind("a lock", begins=b"minimtp: ")
MAX_HOLDER = 120  # characters


class OneWriter:
    """The right to write into a folder. Use it in a `with` block, which gives it back.

    folder: it need not exist. If it does, it is locked at once.
    needed: False does nothing. Only one of several processes that work together needs the lock.

    Raises UserError if another process writes there.
    """

    def __init__(self, folder: str | Path, needed: bool = True) -> None:
        self.folder, self._needed = Path(folder), needed
        self._made = False
        self._descriptor: int | None = None
        self._identity: tuple[int, int] | None = None  # of the folder
        if needed and os.path.isdir(folder) and os.access(folder, os.W_OK):
            with contextlib.suppress(FileNotFoundError):  # the holder before removed the folder
                self._lock()

    def __enter__(self) -> "OneWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # the folder was deleted, or Windows refuses
                if os.path.samestat(os.stat(self.folder / NAME), os.fstat(self._descriptor)):
                    os.unlink(self.folder / NAME)
            os.close(self._descriptor)
            self._descriptor = None
        if self._made:
            with contextlib.suppress(OSError):  # if nothing was written there
                os.rmdir(self.folder)

    def begin(self) -> bool:
        """Create and lock the folder if it did not exist. Returns whether it did not.

        Raises UserError if another process was faster.
        """
        if not self._needed or self._identity is not None:
            return False
        while self._identity is None:
            self._made = not os.path.isdir(self.folder)
            make_folder(self.folder)
            with contextlib.suppress(FileNotFoundError):  # as above
                self._lock()
        return True

    def check(self) -> None:
        """Raise UserError if the folder was deleted or moved while it was being written."""
        if self._identity is None:
            return
        with contextlib.suppress(OSError):
            if self._identity == _identity(self.folder):
                return
        raise UserError(
            f"the folder {shown_path(self.folder)} was deleted or moved while minimtp wrote to it: "
            "repeat the command, or resume the run where you moved it"
        )

    def _lock(self) -> None:
        path = self.folder / NAME
        try:
            identity = _identity(self.folder)
            descriptor = self._open(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise cannot_write(path, error) from None
        if descriptor is None and sys.stderr is not None:
            print(
                f"minimtp: the disk of {shown_path(self.folder)} has no locks: "
                "do not let two commands write there at once",
                file=sys.stderr,
            )
        self._descriptor, self._identity = descriptor, identity
        delete_leftovers(self.folder)

    def _open(self, path: Path) -> int | None:
        """Return the locked file, or None if the file system has no locks."""
        while True:
            check_regular(path)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | SAFELY, 0o666)
            try:
                locked = try_lock(descriptor)
                if locked is False:
                    self._refuse(descriptor)
                if locked is None:
                    os.unlink(path)
                    return None
                # The holder before may have deleted the file since it was opened. Then try again.
                if os.path.lexists(path) and os.path.samestat(os.lstat(path), os.fstat(descriptor)):
                    _write_holder(path, descriptor)
                    kept, descriptor = descriptor, None
                    return kept
            finally:
                if descriptor is not None:
                    os.close(descriptor)

    def _refuse(self, descriptor: int) -> None:
        text = ""
        with contextlib.suppress(OSError):
            os.lseek(descriptor, 1, os.SEEK_SET)  # Windows locks the first byte for readers too
            text = os.read(descriptor, 4 * MAX_HOLDER).decode("utf-8", "replace")
        holder = text.partition(": ")[2].strip() or "another process"
        raise UserError(
            f"{shown_path(self.folder)} is being written by {shown(holder, MAX_HOLDER)}: "
            "wait until it ends, or choose another --out"
        )


def _write_holder(path: Path, descriptor: int) -> None:
    """Name this process in its lock. Raises UserError if the file is not a lock."""
    if not LOCK.matches(os.read(descriptor, HEAD_SIZE)):
        raise not_own(path, LOCK)
    import socket

    since = time.strftime("%Y-%m-%d %H:%M:%S")
    text = f"minimtp: process {os.getpid()} on {socket.gethostname()} since {since}\n"
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode("utf-8", "replace"))


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
