"""Run CUDA sources without a GPU: g++ compiles them with `cuda_on_host.h`, ctypes calls them."""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from minimtp.backend import numpy as np

COMPILER = os.environ.get("CXX") or shutil.which("g++")
HEADER = Path(__file__).with_suffix(".h")
LETTERS = {  # dtype: its letter in the signature of a kernel
    "float32": "f", "float64": "d", "int32": "i", "uint32": "I", "int64": "q", "int8": "b",
    "uint8": "B", "float16": "H", "uint16": "H",
}  # fmt: skip
ALIGNMENT = {  # letter: the alignment of a pointer to it, in bytes
    "V": 16, "F": 16, "f": 4, "d": 8, "i": 4, "I": 4, "q": 8, "b": 1, "B": 1, "H": 2,
}  # fmt: skip
MAX_THREADS = 1024
OPTIONS = (  # a separate library, no fused multiply-add, fibers may change the stack
    "-O2 -fPIC -shared -fno-gnu-unique -ffp-contract=off -fno-strict-aliasing -U_FORTIFY_SOURCE -w"
).split()


@functools.cache
def compiled(source: str, options: tuple[str, ...]) -> "Library":
    """Compile a CUDA source with the options -I and -D. Other options are ignored."""
    if COMPILER is None:
        raise RuntimeError("no C++ compiler (g++) to compile the CUDA sources on the host")
    passed = [option for option in options if option.startswith(("-I", "-D"))]
    key = hashlib.sha256(
        "\0".join([source, *passed, HEADER.read_text(), *_included(passed)]).encode()
    ).hexdigest()[:24]
    folder = Path(tempfile.gettempdir(), f"minimtp-cuda-on-host-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        base = [COMPILER, "-x", "c++", "-std=c++17", "-include", str(HEADER), *passed]
        marked = _called([*base, "-E", "-P", "-D__global__=KERNEL_ON_HOST", "-"], source)
        names = re.findall(r"KERNEL_ON_HOST\s+void\s+(\w+)\s*\(", marked)
        entries = "".join(
            f'on_host::kernels()["{name}"] = on_host::Caller<&{name}>::kernel();' for name in names
        )
        source += (
            f"\nnamespace {{ struct Register {{ Register() {{ {entries} }} }} registered; }}\n"
        )
        source += "const void* used[] = {(void*)&signature_of, (void*)&launch};\n"
        partial = folder / f"{key}.{os.getpid()}"
        _called([*base, *OPTIONS, "-D__global__=", "-o", str(partial), "-"], source)
        partial.replace(library)
    return Library(library)


def _included(options: list[str]) -> list[str]:
    folders = [Path(option[2:]) for option in options if option.startswith("-I")]
    return [path.read_text() for folder in folders for path in sorted(folder.glob("*.cuh"))]


def _called(command: list[str], source: str) -> str:
    result = subprocess.run(command, input=source, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"the source does not compile on the host:\n{result.stderr}")
    return result.stdout


class Library:
    """Compiled kernels, found by name."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.signature_of.restype = self._library.launch.restype = ctypes.c_char_p

    def has(self, name: str) -> bool:
        return self._library.signature_of(name.encode()) is not None

    def check(self, name: str, grid: tuple, block: tuple, arguments: list, shared: int) -> None:
        """Raise TypeError or ValueError if the arguments do not match the declared parameters.

        CUDA itself would not notice.
        """
        declared = self._library.signature_of(name.encode()).decode().split()
        if len(arguments) != len(declared):
            raise TypeError(f"{name} takes {len(declared)} arguments, not {len(arguments)}")
        for position, (argument, kind) in enumerate(zip(arguments, declared, strict=True)):
            place = f"argument {position} of {name}"
            if kind[0] in "&*":
                if isinstance(argument, np.uintp) and argument == 0:
                    continue
                if not isinstance(argument, np.ndarray):
                    raise TypeError(f"{place} must be an array, not {type(argument).__name__}")
                if kind[1] not in "VF" and LETTERS.get(argument.dtype.name) != kind[1]:
                    raise TypeError(
                        f"{place} points to {kind[1]}, but the array has dtype {argument.dtype}"
                    )
                if not argument.flags.c_contiguous:
                    raise ValueError(f"{place} is not contiguous")
                if argument.size and argument.ctypes.data % ALIGNMENT[kind[1]]:
                    raise ValueError(f"{place} is not aligned to {ALIGNMENT[kind[1]]} bytes")
            elif not isinstance(argument, np.generic) or LETTERS.get(argument.dtype.name) != kind:
                raise TypeError(f"{place} must be a number of type {kind}, not {argument!r}")
        sizes = (*grid, *block)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"{name}: the sizes {grid}, {block} must be positive integers")
        if (
            np.prod(block) > MAX_THREADS
            or any(size > 65535 for size in grid[1:])
            or shared > 48 << 10
        ):
            raise ValueError(f"{name}: a GPU cannot launch the sizes {grid}, {block}")

    def launch(self, name: str, grid: tuple, block: tuple, arguments: list, shared: int) -> None:
        sizes = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        holders, lengths = [], []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                holders.append(ctypes.c_void_p(argument.ctypes.data))
                lengths.append(argument.nbytes)
            else:
                holders.append(
                    (ctypes.c_char * argument.nbytes).from_buffer_copy(argument.tobytes())
                )
                lengths.append(0)
        pointers = (ctypes.c_void_p * len(holders))(
            *(ctypes.addressof(holder) for holder in holders)
        )
        error = self._library.launch(
            name.encode(), sizes, pointers, (ctypes.c_size_t * len(lengths))(*lengths), len(lengths)
        )
        if error:
            raise RuntimeError(f"{name}: {error.decode()}")
