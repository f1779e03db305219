"""What stands at a path, asked once and in the same way on every system: a path that cannot be looked at is a UserError."""

import errno
import os
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from minimtp.errors import UserError


def kind_at(path: str | Path) -> str:
    """One of folder, file, other and nothing. Raises UserError without the right to know, or for what is no path."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ELOOP:  # a link that leads to itself
            return "nothing"
        raise UserError(
            f"{path} cannot be reached ({getattr(error, 'strerror', None) or error}): give another path"
        ) from None
    return "folder" if S_ISDIR(mode) else "file" if S_ISREG(mode) else "other"
