"""What is at a path, whether minimtp may write there, and the messages of all failures."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG, S_ISSOCK

from minimtp.errors import UserError
from minimtp.quoting import shown_path

HEAD_SIZE = 4096  # bytes in which a file must show its kind
WHITE_SPACE = b" \t\r\n"
ATTEMPTS = 16  # at a folder that another process makes and removes at the same time
# Do not follow a link, and do not wait for the other end of a pipe. Windows lacks these flags.
SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
NOUNS = {
    S_ISLNK: "symbolic link",
    S_ISFIFO: "named pipe",
    S_ISCHR: "device",
    S_ISBLK: "device",
    S_ISSOCK: "socket",
}
OTHER = "choose another path"
FILE_NEEDED = "give the name of a file to write"
ADVICE = {
    "ENOSPC": f"free disk space, or {OTHER}",
    "EDQUOT": f"delete files to get below your disk quota, or {OTHER}",
    "EFBIG": f"raise the limit of the size of a file (ulimit -f), or {OTHER}",
    "ENOENT": f"its folder was deleted or moved, so create it again, or {OTHER}",
    "ESTALE": f"its folder was deleted or moved, so create it again, or {OTHER}",
    "EACCES": f"change the permissions of its folder, or {OTHER}",
    "EPERM": f"change the permissions of its folder, or {OTHER}",
    "EROFS": "choose a path on a disk that can be written",
    "ENAMETOOLONG": "choose a shorter name",
    "ELOOP": f"a part of it is a symbolic link, so {OTHER}",
    "ENOTDIR": f"a part of it is not a folder, so {OTHER}",
    "EIO": f"check the disk, or {OTHER}",
    "EMFILE": "raise the limit of open files (ulimit -n)",
    "ENFILE": "close other programs, which have too many files open",
}


TO_READ = {  # where the file itself may be all right
    "EACCES": "change its permissions",
    "EPERM": "change its permissions",
    "EIO": "check the disk, or give another path",
    "EMFILE": ADVICE["EMFILE"],
    "ENFILE": ADVICE["ENFILE"],
}


@dataclass(frozen=True)
class FileKind:
    """A kind of file, and how to recognise one that minimtp wrote.

    name: with its article, for messages. begins: how the file begins. contains: what its first
    HEAD_SIZE bytes contain. White space does not count.
    """

    name: str
    begins: bytes = b""
    contains: bytes = b""

    def matches(self, head: bytes) -> bool:
        """Return whether the first bytes of a file show this kind, or the file is empty."""
        squeezed, begins, contains = (
            part.translate(None, WHITE_SPACE) for part in (head, self.begins, self.contains)
        )
        return not head or (squeezed.startswith(begins) and contains in squeezed)


def kind_at(path: str | Path) -> str:
    """Return "folder", "file", "other" or "nothing". Links are followed.

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
            f"{shown_path(path)} cannot be reached ({reason_for(error)}): give another path"
        ) from None
    return "folder" if S_ISDIR(mode) else "file" if S_ISREG(mode) else "other"


def check_file(path: str | Path, kind: FileKind) -> bool:
    """Check that a file of this kind may be written to `path`. Changes nothing.

    Returns whether there is such a file already. Raises UserError if something else is there, or if
    its folder cannot be made or written.
    """
    if str(path).endswith("/"):  # Path forgets it
        raise UserError(f"{shown_path(path)} is the name of a folder: {FILE_NEEDED}")
    path = Path(path)
    if not check_regular(path):
        return False
    if not kind.matches(head_of(path)):
        raise not_own(path, kind)
    return True


def check_regular(path: Path) -> bool:
    """Return whether a file is at `path`, False if nothing is. The rest is as for `check_file`."""
    _check_parents(path, f"{shown_path(path)} cannot be written")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from None
    if S_ISDIR(mode):
        raise UserError(f"{shown_path(path)} is a folder: {FILE_NEEDED}")
    if not S_ISREG(mode):
        noun = next((noun for test, noun in NOUNS.items() if test(mode)), "special file")
        raise UserError(
            f"{shown_path(path)} is a {noun}, and minimtp writes only to ordinary files: {OTHER}"
        )
    return True


def head_of(path: Path) -> bytes:
    """Return the first bytes of an ordinary file. Raises UserError if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | SAFELY)
        try:
            return os.read(descriptor, HEAD_SIZE)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(
            f"{shown_path(path)} exists and cannot be read ({reason_for(error)}): {OTHER}"
        ) from None


def check_folder(folder: str | Path) -> None:
    """Raise UserError unless `folder` is a folder, or nothing is there and it can be made."""
    folder = Path(folder)
    kind = kind_at(folder)
    if kind == "folder":
        return
    if kind == "nothing" and not os.path.islink(folder):
        return _check_parents(folder, f"the folder {shown_path(folder)} cannot be made")
    noun = {"file": "file", "other": "device or a pipe"}.get(kind, "link that leads nowhere")
    raise UserError(f"{shown_path(folder)} is a {noun}: give the name of a folder to write")


def make_folder(folder: str | Path) -> Path:
    """Create the folder and its parents if they do not exist. Raises UserError if that fails."""
    for left in reversed(range(ATTEMPTS)):
        check_folder(folder)
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            break
        except OSError as error:
            if isinstance(error, FileExistsError) and left:  # it was made and removed meanwhile
                continue
            raise UserError(
                f"the folder {shown_path(folder)} cannot be made ({reason_for(error)}): "
                f"{advice_for(error)}"
            ) from None
    return Path(folder)


def _check_parents(path: Path, failure: str) -> None:
    """Raise UserError if the folders above `path` do not exist and cannot be made, or if the last
    one that exists cannot be written. failure: how the message begins.
    """
    folder = path.parent
    while (kind := kind_at(folder)) != "folder":
        if kind != "nothing" or os.path.islink(folder):
            noun = "a link that leads nowhere" if kind == "nothing" else "not a folder"
            raise UserError(f"{failure} ({shown_path(folder)} is {noun}): {OTHER}")
        folder = folder.parent
    # Another process may remove the folder and make it again meanwhile.
    if not any(os.access(folder, os.W_OK) or not os.path.lexists(folder) for _ in range(ATTEMPTS)):
        read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        error = OSError(number, os.strerror(number))
        raise UserError(f"{failure} ({reason_for(error)}): {advice_for(error)}")


def not_own(path: Path, kind: FileKind) -> UserError:
    """Return the error of one sentence for a file that minimtp must not replace."""
    return UserError(
        f"{shown_path(path)} exists and is not {kind.name} that minimtp wrote: "
        "choose another path, or move this file away"
    )


def cannot_write(path: str | Path, error: Exception) -> UserError:
    """Return the error of one sentence for a file that could not be written."""
    reason, advice = reason_for(error), advice_for(error)
    return UserError(f"{shown_path(path)} cannot be written ({reason}): {advice}")


def advice_for(error: Exception) -> str:
    """Return what to do about a failure of the system."""
    return ADVICE.get(errno.errorcode.get(getattr(error, "errno", None), ""), OTHER)


def advice_to_read(error: Exception, otherwise: str = "give another path") -> str:
    """Return what to do about a file that cannot be read.

    otherwise: the advice if the file itself may be the cause.
    """
    return TO_READ.get(errno.errorcode.get(getattr(error, "errno", None), ""), otherwise)


def reason_for(error: Exception) -> str:
    """Return the reason of a failure in a few words: the system's own words if it has any."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), type(error).__name__)
