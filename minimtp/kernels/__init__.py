"""Which version of the fast computations runs: plain array code, or compiled by Numba.

`kernels.for_array(x)` returns the module whose functions fit the array, so that callers write
`kernels.for_array(x).rms_norm(x, weight, eps)` and never a flag. Compiled functions exist for float32 NumPy arrays (and
the bytes of packed weights); everything else, float64 proofs and arrays on a GPU, takes the plain ones. Numba is the
optional extra `fast`: without it all works, slower. It is imported at the first use, never by `import minimtp`.

The environment variable MINIMTP_KERNELS=auto|plain sets the choice for a process; `use` overrides it.
"""

import os
import sys
from types import ModuleType

from minimtp.backend import numpy
from minimtp.errors import UserError
from minimtp.kernels import plain

__all__ = ["describe", "for_array", "use"]

INSTALL_HINT = 'pip install "minimtp[fast]"'
CHOICES = ("auto", "plain")

_choice: str | None = None  # "auto" or "plain", once it is known
_compiled: ModuleType | None = None  # kernels.cpu, once imported
_obstacle: str | None = None  # why it cannot be imported


def for_array(x) -> ModuleType:
    """The module, `plain` or `cpu`, whose functions fit the array x. UserError if MINIMTP_KERNELS is misspelt."""
    if type(x) is not numpy.ndarray or x.dtype.char not in "fB":
        return plain
    if _compiled is not None and _choice == "auto":
        return _compiled
    return _load_compiled(announce=True) or plain


def use(choice: str) -> None:
    """Set this process's choice: "auto" (compiled where possible) or "plain". Raises UserError for anything else."""
    global _choice
    if choice not in CHOICES:
        raise UserError(f"unknown kernels {choice!r}: use auto or plain")
    _choice = choice


def describe(device: str = "cpu") -> tuple[str, str]:
    """What runs on float32 arrays of the device, "cpu" or "plain", and why. May import Numba."""
    if device != "cpu":
        return "plain", "array code is all there is for a GPU"
    compiled = _load_compiled(announce=False)
    if compiled is not None:
        return "cpu", f"compiled for this processor by Numba {compiled.numba.__version__}"
    return "plain", "asked for" if _choice == "plain" else f"{_obstacle}; {INSTALL_HINT} makes it faster"


def _load_compiled(announce: bool) -> ModuleType | None:
    """kernels.cpu, or None when plain kernels were asked for or Numba is unusable (said once on stderr)."""
    global _compiled, _obstacle
    if _choice is None:
        use(os.environ.get("MINIMTP_KERNELS") or "auto")
    if _choice == "plain":
        return None
    if _compiled is None and _obstacle is None:
        try:
            from minimtp.kernels import cpu
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
            _obstacle = "Numba is not installed" if missing else f"Numba is unusable here ({error})"
            if announce:
                print(f"minimtp: {_obstacle}: decoding is slower; {INSTALL_HINT} makes it faster", file=sys.stderr)
        else:
            _compiled = cpu
    return _compiled
