"""Which version of the fast computations runs: plain array code, or compiled by Numba or for a GPU.

`kernels.for_array(x)` returns the module whose functions fit the array, so that callers write
`kernels.for_array(x).rms_norm(x, weight, eps)` and never a flag. Compiled functions exist for float32 NumPy arrays (and
the bytes of packed weights), and CUDA kernels for those of CuPy; everything else, float64 proofs, takes the plain ones.
Numba is the optional extra `fast`: without it all works, slower. It is imported at the first use, never by `import minimtp`.

The environment variable MINIMTP_KERNELS=auto|plain sets the choice for a process; `use` overrides it.
"""

import os
import sys
from types import ModuleType

from minimtp.backend import array_module, can_compile_cuda, numpy
from minimtp.errors import UserError
from minimtp.kernels import plain

__all__ = ["describe", "for_array", "use"]

INSTALL_HINT = 'pip install "minimtp[fast]"'
CHOICES = ("auto", "plain")

_choice: str | None = None  # "auto" or "plain", once it is known
_compiled: ModuleType | None = None  # kernels.cpu, once imported
_obstacle: str | None = None  # why it cannot be imported
_cuda: tuple[ModuleType, ModuleType | None] | None = (
    None  # CuPy and kernels.cuda, or None where it is unusable
)
_cuda_obstacle: str | None = None


def for_array(x) -> ModuleType:
    """The module, `plain`, `cpu` or `cuda`, whose functions fit the array x. UserError if MINIMTP_KERNELS is misspelt."""
    if x.dtype.char not in "fB":
        return plain
    if type(x) is not numpy.ndarray:
        return _load_cuda(array_module(x)) or plain
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
    """What runs on float32 arrays of the device, "cpu", "cuda" or "plain", and why. May import Numba, or compile for a GPU."""
    if device != "cpu":
        if _load_cuda(sys.modules.get("cupy", numpy)) is not None:
            return "cuda", "compiled for this GPU from minimtp/kernels/cuda"
        return (
            "plain",
            "asked for" if _choice == "plain" else _cuda_obstacle or "CuPy is not loaded",
        )
    compiled = _load_compiled(announce=False)
    if compiled is not None:
        return "cpu", f"compiled for this processor by Numba {compiled.numba.__version__}"
    return (
        "plain",
        "asked for" if _choice == "plain" else f"{_obstacle}; {INSTALL_HINT} makes it faster",
    )


def _load_cuda(xp: ModuleType) -> ModuleType | None:
    """kernels.cuda, or None when plain kernels were asked for, the array is none of CuPy's, or its compiler is unusable."""
    global _cuda, _cuda_obstacle
    if _choice_now() == "plain" or not can_compile_cuda(xp):
        return None
    if _cuda is None or _cuda[0] is not xp:
        from minimtp.kernels import cuda
        from minimtp.kernels.cuda import source as cuda_source

        _cuda, _cuda_obstacle = (xp, cuda), None
        try:
            cuda_source.compiled(xp, "norms")
        except Exception as error:  # CuPy's compiler fails with families of its own: a missing library, an old driver
            _cuda, _cuda_obstacle = (
                (xp, None),
                f"CUDA kernels cannot be compiled here ({str(error).strip().splitlines()[-1]})",
            )
            print(
                f"minimtp: {_cuda_obstacle}: the GPU computes with plain array code, slower",
                file=sys.stderr,
            )
    return _cuda[1]


def _choice_now() -> str:
    if _choice is None:
        use(os.environ.get("MINIMTP_KERNELS") or "auto")
    return _choice


def _load_compiled(announce: bool) -> ModuleType | None:
    """kernels.cpu, or None when plain kernels were asked for or Numba is unusable (said once on stderr)."""
    global _compiled, _obstacle
    if _choice_now() == "plain":
        return None
    if _compiled is None and _obstacle is None:
        try:
            from minimtp.kernels import cpu
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
            _obstacle = "Numba is not installed" if missing else f"Numba is unusable here ({error})"
            if announce:
                print(
                    f"minimtp: {_obstacle}: decoding is slower; {INSTALL_HINT} makes it faster",
                    file=sys.stderr,
                )
        else:
            _compiled = cpu
    return _compiled
