"""Every file that minimtp writes is written here, by one mechanism with these rules.

**Whole or not at all.** The new content is written to a temporary file in the same folder, flushed
to the disk, and moved to its name. Then the folder is flushed. Whatever happens in between (a kill,
a full disk, a power cut), the path holds the whole old file or the whole new one.

**Only minimtp's own files are replaced.** The content of a file must show that minimtp wrote it, as
the same kind of file (`FileKind`), or the file must be empty. Anything else at the path is an error
and stays as it is. This includes a file that appears while the new one is being written: the move
to a free path fails if the path is taken by then. Caches and logs, which must not stop a command,
keep a file that they do not recognise under another name (`set_aside`).

**Links and devices are not followed.** A symbolic link, a named pipe, a device or a folder in place
of the file is an error, and is not opened. A link to a folder counts as a folder.

**Temporary files are unique.** They are created exclusively, and locked while they are written. A
kill leaves one behind. The next write into its folder finds it unlocked and deletes it.

**Data that can be computed again** may be changed in place, in blocks with checksums
(sealed_blocks.py): states that are larger than the memory, for instance.

**Missing folders are created**, for every output.

**A run folder has one writer** (`OneWriter`), and so has every folder that a command resumes in.

Every failure is a UserError of one sentence that says what to do.

    paths.py          what is at a path, whether it may be written, and the messages
    temporary.py      unique files, their locks, and what a kill left behind
    writing.py        the functions that write
    one_writer.py     the lock of a folder
    sealed_blocks.py  a file of blocks that is filled in place (to be imported from there)
    silence.py        hiding what compiled libraries write to the error output (from there, too)
"""

from minimtp.files.one_writer import OneWriter
from minimtp.files.paths import (
    FileKind,
    advice_for,
    advice_to_read,
    cannot_write,
    check_file,
    check_folder,
    kind_at,
    make_folder,
    reason_for,
)
from minimtp.files.temporary import delete_leftovers
from minimtp.files.writing import (
    AppendedFile,
    atomic_write,
    check_new_folder,
    delete,
    new_folder,
    set_aside,
    write_text,
)

__all__ = [
    "AppendedFile",
    "FileKind",
    "OneWriter",
    "advice_for",
    "advice_to_read",
    "atomic_write",
    "cannot_write",
    "check_file",
    "check_folder",
    "check_new_folder",
    "delete",
    "delete_leftovers",
    "kind_at",
    "make_folder",
    "new_folder",
    "reason_for",
    "set_aside",
    "write_text",
]
