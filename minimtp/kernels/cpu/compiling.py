"""How the compiled kernels are compiled: one decorator, and one sentence to the person who has to
wait.

Functions compile when they are first called, so that decoding never waits for the training kernels,
and are cached on disk beside this file or, where that is not writable, in the user's cache
directory (Numba chooses). `error_model="numpy"` lets a division by zero give inf instead of testing
for it, which would keep loops from being vectorized. Floating-point operations keep their order
unless a function asks for `reassociate`: it may then add up in several lanes, in an order that
depends on the length of a row, never on the number of rows. No function allows the compiler to fuse
a product and an addition where it likes, because it may like it in one copy of a loop and not in
the
other: a row's bits must not depend on its neighbours. Where fusing pays, it is written down
(`multiply_add`). Parallelism belongs to Python threads (`backend.py`): functions release the lock,
none starts threads.
"""

import sys
from pathlib import Path

import numba
from numba.core import event

__all__ = ["compiled", "reassociate"]

SECONDS = 20  # what all of them take on a slow core
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
    """Numba renews a cached function when its own file changes; here it may have taken in one of
    another file.
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
