"""How the compiled kernels are compiled: one decorator, and one message to the person who has to
wait.

Functions are compiled when they are first called, so decoding never waits for the training kernels.
They are cached on disk next to this file or, if that is not writable, in the user's cache directory
(Numba chooses). With `error_model="numpy"` a division by zero gives inf. Testing for it would
prevent vectorization. Floating-point operations keep their order unless a function asks for
`reassociate`. It may then add in several lanes, in an order that depends on the length of a row but
never on the number of rows. No function lets the compiler fuse products and additions freely,
because it could do so in one copy of a loop and not in another, and a row's bits must not depend on
other rows. Where fusing pays, the code says so (`multiply_add`). Parallelism belongs to Python
threads (`backend.py`): functions release the lock and start no threads.
"""

import sys
from pathlib import Path

import numba
from numba.core import event

__all__ = ["compiled", "reassociate"]

SECONDS = 20  # to compile all of them on a slow core
reassociate = {"reassoc"}
_newest_source = max(path.stat().st_mtime for path in Path(__file__).parent.rglob("*.py"))


def compiled(function=None, **options):
    """`numba.njit` with this package's options."""
    if function is None:
        return lambda function: compiled(function, **options)
    dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # no folder to write to, neither here nor in the user's home
        _Announcement.keeps = "for this run only: no folder is writable, NUMBA_CACHE_DIR names one"
    else:
        _renew_when_any_kernel_changes(dispatcher)
    return dispatcher


def _renew_when_any_kernel_changes(dispatcher) -> None:
    """Recompile a cached function when any kernel file changes.

    Numba checks only the function's own file, but functions of other files may have been inlined
    into it.
    """
    stamp = getattr(getattr(dispatcher._cache, "_cache_file", None), "_source_stamp", None)
    if stamp is not None:
        dispatcher._cache._cache_file._source_stamp = (*stamp, _newest_source)


class _Announcement(event.Listener):
    said = False
    keeps = "once, later runs find them on disk"

    def on_start(self, event) -> None:
        module = event.data["dispatcher"].py_func.__module__
        if module.startswith("minimtp.kernels") and not self.said:
            self.said = True
            print(f"minimtp: compiling kernels, up to {SECONDS} s ({self.keeps})", file=sys.stderr)

    def on_end(self, event) -> None:
        pass


event.register("numba:compile", _Announcement())
