"""The files below a folder: which they are, and why others are left out.

The files of runs (recipe, log, ...) are no texts, so a folder may hold the run that trains on it,
and a resumed run finds the same text.
"""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from minimtp.errors import UserError
from minimtp.files import advice_to_read, reason_for
from minimtp.quoting import shown_path
from minimtp.training.run.log import LOG, LOG_NAME
from minimtp.training.self_generated.stored import PART, PART_NAME

# The files of runs and of Hugging Face models. They are no texts in a folder that has one of
# MARKERS, or a log or part that minimtp wrote, and in the folder that the command writes and below
# it.
MARKERS = frozenset(
    ".minimtp-lock checkpoint.safetensors compare.json measured.json quality.json "
    "model.safetensors model.safetensors.index.json self-generated.json".split()
)
OWN_NAMES = MARKERS | frozenset(
    f"recipe.json {LOG_NAME} self-generated config.json generation_config.json tokenizer.json "
    "tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json merges.txt "
    "chat_template.jinja".split()
)
PARTIAL = ".partial"  # the suffix of what was not finished


def files_below(
    folder: Path,
    skip: Callable[[str], bool] = lambda part: False,
    report: Callable[[str, str], None] = lambda reason, name: None,
    out: Path | None = None,
) -> list[tuple[str, Path]]:
    """Return (relative name with forward slashes, path) of every regular file, sorted by name.

    skip: whether a name is left out silently. report: receives (reason, name) of everything else
    that is left out. out: a folder whose files of runs are left out.
    """
    found, folders = [], [(folder, False)]
    while folders:  # a stack: folders may be nested deeper than Python's recursion allows
        parent, in_out = folders.pop()
        entries = _entries(parent, folder, report)
        in_out = in_out or _same(parent, out)
        own = in_out or any(_is_marker(entry) for entry in entries)
        for entry in entries:
            path = Path(parent, entry.name)
            relative = path.relative_to(folder).as_posix()
            if skip(entry.name):
                continue
            if own and _is_own(entry.name):
                report("part of a run or model", relative)
            elif entry.is_dir(follow_symlinks=False):
                folders.append((path, in_out))
            elif reason := _not_a_file(path):
                report(reason, relative)
            else:
                found.append((relative, path))
    return sorted(found)


def _entries(parent: Path, folder: Path, report: Callable[[str, str], None]) -> list[os.DirEntry]:
    """Return what is in a folder below `folder`. Raises UserError if `folder` is unreadable."""
    try:
        with os.scandir(parent) as entries:
            return list(entries)
    except OSError as error:
        if parent == folder:
            raise UserError(
                f"the folder {shown_path(folder)} cannot be read: {reason_for(error)}: "
                f"{advice_to_read(error)}"
            ) from None
        report("unreadable", parent.relative_to(folder).as_posix())
        return []


def _is_own(name: str) -> bool:
    """Return whether runs and models have files of this name. A number follows the name of
    what a command has put aside.
    """
    plain = re.sub(r"\.\d+$", "", name)
    return plain in OWN_NAMES or PART_NAME.fullmatch(plain) is not None or name.endswith(PARTIAL)


def _is_marker(entry: os.DirEntry) -> bool:
    """Return whether minimtp wrote the folder of this file."""
    if entry.name in MARKERS:
        return True
    is_part = PART_NAME.fullmatch(entry.name) is not None
    begins = LOG.begins if entry.name == LOG_NAME else PART.begins if is_part else b""
    if not begins or not entry.is_file(follow_symlinks=False):
        return False
    try:
        with open(entry.path, "rb") as file:
            return file.read(len(begins)) == begins
    except OSError:
        return False


def _not_a_file(path: Path) -> str:
    """Return why this is not a regular file, or "" if it is one."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "linked to nothing" if path.is_symlink() else "unreadable"
    if stat.S_ISDIR(mode):
        return "linked to a folder"
    return "" if stat.S_ISREG(mode) else "not a regular file"


def _same(parent: Path, out: Path | None) -> bool:
    try:
        return out is not None and os.path.samefile(parent, out)
    except OSError:  # `out` does not exist yet
        return False
