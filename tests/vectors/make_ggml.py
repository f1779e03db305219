"""Compile ggml's quantizers, run them on the cases and store their bytes (see README.md here)."""

import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from ggml_cases import FORMATS, importance, large_cases, small_cases  # noqa: E402

from minimtp.backend import numpy as np  # noqa: E402


def compiled(sources: Path, folder: Path) -> ctypes.CDLL:
    """Compile the quantizers in `folder` and load them."""
    (folder / "ggml-version.h").touch()  # written by ggml's build; an empty file is enough
    library = folder / "ggml.so"
    definitions = ["-DNDEBUG", "-D_GNU_SOURCE", '-DGGML_VERSION=""', '-DGGML_COMMIT=""']
    compiler = os.environ.get("CC", "gcc")
    options = ["-O2", "-ffp-contract=off", "-fPIC", "-shared", "-w"]
    includes = [f"-I{folder}", f"-I{sources / 'include'}", f"-I{sources / 'src'}"]
    files = [str(sources / "src/ggml-quants.c"), str(sources / "src/ggml.c")]
    command = [compiler, *options, *definitions, *includes, "-o", str(library), *files]
    subprocess.run([*command, "-lm", "-lpthread"], check=True)
    # Symbols of ggml's backends are missing. Lazy loading allows that, because they are not called.
    return ctypes.CDLL(str(library), mode=os.RTLD_LAZY)


def blocks(ggml, name, x, weights):
    """Return ggml's blocks for x (N, K): uint8 (N, bytes per row). weights: importance or None."""
    function = getattr(ggml, "quantize_" + name.replace("_k", "_K"))
    x = np.ascontiguousarray(x, np.float32)
    packed = np.zeros(
        (len(x), x.shape[1] // (256 if name.endswith("k") else 32) * FORMATS[name]), np.uint8
    )
    pointers = [
        None if a is None else a.ctypes.data_as(ctypes.c_void_p) for a in (x, packed, weights)
    ]
    function(*pointers[:2], ctypes.c_int64(len(x)), ctypes.c_int64(x.shape[1]), pointers[2])
    return packed


def main(sources: str) -> None:
    stored = {}
    with tempfile.TemporaryDirectory() as folder:
        ggml = compiled(Path(sources), Path(folder))
        for name in FORMATS:
            for how, weights in (("plain", None), ("importance", importance())):
                for case, x in small_cases().items():
                    stored[f"{name}/{how}/{case}"] = blocks(ggml, name, x, weights)
                for case, x in large_cases().items():
                    digest = hashlib.sha256(blocks(ggml, name, x, weights)).digest()
                    stored[f"{name}/{how}/sha256 of large {case}"] = np.frombuffer(digest, np.uint8)
    for case, x in small_cases().items():
        stored[f"weights/{case}"] = x
    np.savez_compressed(Path(__file__).with_name("ggml.npz"), **stored)


if __name__ == "__main__":
    main(*sys.argv[1:])
