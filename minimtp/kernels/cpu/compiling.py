"""The decorator that compiles the kernels, and a message to the user who has to wait for it.

Functions are compiled when they are first called, so decoding never waits for the training kernels.
They are cached on disk next to this file or, if that is not writable, in the user's cache directory
(Numba chooses; see kernel_cache.py). With `error_model="numpy"` a division by zero gives inf.
Testing for it would prevent vectorization. Floating-point operations keep their order unless a
function asks for `reassociate`. Such a function may add in several lanes. The order then depends on
the length of a row, but not on the number of rows. The compiler may not fuse products and additions
on its own. It could fuse them in one copy of a loop and not in another, and then the result of a
row would depend on the other rows. Code that gains from fusing calls `multiply_add`. The functions
release the GIL and start no threads. Python threads call them in parallel (`backend.py`).
"""

import sys
from pathlib import Path

import numba
from numba.core import event

from minimtp.kernels.cpu.kernel_cache import KernelCache

__all__ = ["compiled", "reassociate"]

SECONDS = 40  # to compile all of them on a slow core
reassociate = {"reassoc"}
_newest_source = max(path.stat().st_mtime for path in Path(__file__).parent.rglob("*.py"))


def compiled(function=None, **options):
    """`numba.njit` with this package's options."""
    if function is None:
        return lambda function: compiled(function, **options)
    dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
    try:
        # Numba checks only the function's own file, but functions of other files may have been
        # inlined into it, so the age of all kernel files counts.
        dispatcher._cache = KernelCache(dispatcher.py_func, _newest_source)
    except RuntimeError:  # neither this folder nor the user's cache directory is writable
        _Announcement.keeps = "for this run only: set NUMBA_CACHE_DIR to a writable folder"
    return dispatcher


class _Announcement(event.Listener):
    said = False
    keeps = "once; later runs load them from disk"

    def on_start(self, event) -> None:
        module = event.data["dispatcher"].py_func.__module__
        if module.startswith("minimtp.kernels") and not self.said:
            self.said = True
            print(f"minimtp: compiling kernels, up to {SECONDS} s ({self.keeps})", file=sys.stderr)

    def on_end(self, event) -> None:
        pass


event.register("numba:compile", _Announcement())
