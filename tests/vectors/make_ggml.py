"""Compile ggml's quantizers, run them on the cases and store what they wrote: see README.md beside this file."""

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
    (folder / "ggml-version.h").touch()  # the build writes it; nothing of it is needed
    library = folder / "ggml.so"
    definitions = ["-DNDEBUG", "-D_GNU_SOURCE", '-DGGML_VERSION=""', '-DGGML_COMMIT=""']
    command = [
        os.environ.get("CC", "gcc"), "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-w", *definitions,
        f"-I{folder}", f"-I{sources / 'include'}", f"-I{sources / 'src'}",
        "-o", str(library), str(sources / "src/ggml-quants.c"), str(sources / "src/ggml.c"), "-lm", "-lpthread",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library), mode=os.RTLD_LAZY)  # backends are missing, and never called


def blocks(ggml, name, x, weights):
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
