"""Which version of the fast computations runs: plain array code, or code compiled by Numba or for a
GPU.

`kernels.for_array(x)` returns the module whose functions fit the array. Callers write
`kernels.for_array(x).rms_norm(x, weight, eps)` and never need a flag.

    plain/  array code for everything: float64, and every case that no compiled version covers
    cpu/    compiled by Numba for float32 NumPy arrays and packed weights
    cuda/   compiled for the GPU for float32 CuPy arrays and packed weights
    ggml/   the block formats of packed weights

Numba is the optional extra `fast`: without it everything works, more slowly. It is imported at
first use, never by `import minimtp`. The environment variable MINIMTP_KERNELS=auto|plain sets the
choice for a process, and `use` overrides it.
"""

import os
import subprocess
import sys
from types import ModuleType

from minimtp import extras
from minimtp.backend import Array, array_module, can_compile_cuda, numpy
from minimtp.errors import UserError
from minimtp.kernels import plain
from minimtp.machine import child_environment

__all__ = ["bfloat16_instructions", "describe", "for_array", "use"]

INSTALL_HINT = 'pip install "minimtp[fast]"'
CHOICES = ("auto", "plain")
PROCESSOR_VARIABLES = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")  # read by Numba

_choice: str | None = None  # "auto" or "plain", once it is known
_compiled: ModuleType | None = None  # kernels.cpu, once imported
_obstacle: str | None = None  # why it cannot be imported
_cuda: tuple[ModuleType, ModuleType | None] | None = None  # CuPy, and kernels.cuda if it is usable
_cuda_obstacle: str | None = None


def for_array(x: Array) -> ModuleType:
    """Return the module, `plain`, `cpu` or `cuda`, whose functions fit the array x.

    Raises UserError if MINIMTP_KERNELS has an unknown value.
    """
    if x.dtype.char not in "fB":
        return plain
    if type(x) is not numpy.ndarray:
        return _load_cuda(array_module(x)) or plain
    if _compiled is not None and _choice == "auto":
        return _compiled
    return _load_compiled(announce=True) or plain


def use(choice: str) -> None:
    """Set the choice for this process: "auto" (compiled if possible) or "plain".

    Raises UserError for anything else.
    """
    global _choice
    if choice not in CHOICES:
        raise UserError(f"unknown kernels {choice!r}: use auto or plain")
    _choice = choice


def describe(device: str = "cpu") -> tuple[str, str]:
    """Return which version runs on float32 arrays of the device, "cpu", "cuda" or "plain", and why.

    May import Numba, or compile for a GPU.
    """
    if device != "cpu":
        if _load_cuda(sys.modules.get("cupy", numpy)) is not None:
            return "cuda", "compiled for this GPU from minimtp/kernels/cuda"
        return (
            "plain",
            "requested" if _choice == "plain" else _cuda_obstacle or "CuPy is not loaded",
        )
    compiled = _load_compiled(announce=False)
    if compiled is not None:
        return "cpu", f"compiled for this processor by Numba {compiled.numba.__version__}"
    return (
        "plain",
        "requested" if _choice == "plain" else f"{_obstacle}; {INSTALL_HINT} makes it faster",
    )


def bfloat16_instructions() -> str | None:
    """Return the name of the instructions with which bfloat16 is faster than float32 on this
    processor, None if the kernels use none.
    """
    if _load_compiled(announce=False) is None:
        return None
    from minimtp.kernels.cpu.matrices.bfloat16.products import instructions

    return instructions()


def _load_cuda(xp: ModuleType) -> ModuleType | None:
    """Return kernels.cuda, or None.

    None if plain kernels were requested, the array does not belong to CuPy, or its compiler is
    unusable.
    """
    global _cuda, _cuda_obstacle
    if _choice_now() == "plain" or not can_compile_cuda(xp):
        return None
    if _cuda is None or _cuda[0] is not xp:
        from minimtp.kernels import cuda
        from minimtp.kernels.cuda import source as cuda_source

        _cuda, _cuda_obstacle = (xp, cuda), None
        try:
            cuda_source.compiled(xp, "norms")
        except Exception as error:  # of CuPy: a missing library, an old driver
            _cuda = (xp, None)
            _cuda_obstacle = f"CUDA kernels cannot be compiled here ({extras.first_cause(error)})"
            print(
                f"minimtp: {_cuda_obstacle}: the GPU uses plain array code, which is slower",
                file=sys.stderr,
            )
    return _cuda[1]


def _choice_now() -> str:
    if _choice is None:
        use(os.environ.get("MINIMTP_KERNELS") or "auto")
    return _choice


def _load_compiled(announce: bool) -> ModuleType | None:
    """Return kernels.cpu, or None if plain kernels were requested or Numba is unusable.

    announce: report once on stderr that Numba is unusable.
    """
    global _compiled, _obstacle
    if _choice_now() == "plain":
        return None
    if _compiled is None and _obstacle is None:
        _compiled, reason = _import_compiled()
        if _compiled is None:
            _obstacle = f"Numba {reason}"
            if announce:
                print(
                    f"minimtp: {_obstacle}: decoding is slower; {INSTALL_HINT} makes it faster",
                    file=sys.stderr,
                )
    return _compiled


def _compiles_elsewhere() -> bool:
    """Return whether another process can compile. LLVM ends a process that names a wrong one."""
    code = "from minimtp.kernels import cpu; cpu.check_compiler()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    return done.returncode == 0


def _import_compiled() -> tuple[ModuleType | None, str]:
    """Return kernels.cpu and "", or None and why Numba cannot be used here.

    A successful import is not enough. Numba must also compile, for this processor and with the
    settings of this environment, so one small function is compiled and called.
    """
    numba, obstacle = extras.find("numba")
    if numba is None:
        return None, obstacle
    if numba.config.DISABLE_JIT:
        return None, "does not compile: NUMBA_DISABLE_JIT is set"
    if any(map(os.environ.get, PROCESSOR_VARIABLES)) and not _compiles_elsewhere():
        names = " and ".join(PROCESSOR_VARIABLES)
        return None, f"does not compile for the processor that {names} describe"
    try:
        from minimtp.kernels import cpu

        cpu.check_compiler()
    except Exception as error:  # Numba and LLVM have undocumented error classes
        return None, f"cannot be used ({extras.first_cause(error)})"
    return cpu, ""
