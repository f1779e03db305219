"""Everything that can be in the way where a file is about to be written."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

PRECIOUS = b"precious, and not written by minimtp\n"


def link_to_a_file(path: Path) -> None:
    target = path.with_name("linked-" + path.name)
    target.write_bytes(PRECIOUS)
    path.symlink_to(target.name)


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("never-made-" + path.name))


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def socket_file(path: Path) -> None:
    server, here = socket.socket(socket.AF_UNIX), os.getcwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        server.bind(path.name)
    finally:
        os.chdir(here)
        server.close()


OBSTACLES: dict[str, Callable[[Path], None]] = {
    "a file of the user's": lambda path: path.write_bytes(PRECIOUS) and None,
    "a binary file of the user's": lambda path: path.write_bytes(b"\0\xff" + PRECIOUS) and None,
    "a link to a file": link_to_a_file,
    "a link to nothing": link_to_nothing,
    "a link to itself": link_to_itself,
    "a link to a device": link_to_a_device,
    "a named pipe": lambda path: os.mkfifo(path),
    "a socket": socket_file,
    "a folder": lambda path: path.mkdir(),
    "a folder with a file": lambda path: (
        (path.mkdir(), (path / "a").write_bytes(PRECIOUS)) and None
    ),
}


def plant(name: str, path: Path) -> None:
    """Put the obstacle of this name at `path`, whose folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    OBSTACLES[name](path)


def contents(folder: Path) -> dict[str, object]:
    """Return what is below the folder: types, links and the bytes of files."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content: object = os.readlink(path) if path.is_symlink() else None
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
        found[str(path.relative_to(folder))] = (mode, content)
    return found
