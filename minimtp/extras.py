"""Import the optional packages, or say in one line why one cannot be used.

A package that is installed may still be unusable: a shared library is missing, it was built for
another NumPy, a setting of the environment breaks it, or a folder of the same name hides it. An
optional package that cannot be used counts as missing, whatever the reason. The command continues
without it, or ends with one sentence if it needs it.
"""

import contextlib
import importlib
import io
import sys
import warnings
from types import ModuleType

from minimtp.errors import UserError, shown

__all__ = ["EXTRA_OF", "find", "first_cause", "install_hint", "require"]

MAX_REASON = 100  # characters
# By module: the extra that installs it, and the names that it must have to be the right package.
EXTRA_OF = {
    "numba": ("fast", ("njit", "config", "__version__")),
    "cupy": ("cuda12", ("ndarray", "arange", "ones")),
    "mpi4py.MPI": ("mpi", ("COMM_WORLD",)),
    "matplotlib.figure": ("plots", ("Figure",)),
    "gguf": ("interop", ("GGUFWriter", "GGMLQuantizationType")),
    "tokenizers": ("interop", ("Tokenizer",)),
    "jinja2": ("interop", ("Environment",)),
    "torch": ("", ("Tensor", "__version__")),
    "llama_cpp": ("", ("llama_backend_init",)),
}


def find(module: str) -> tuple[ModuleType | None, str]:
    """Import a module of EXTRA_OF. Return it and "", or None and why it cannot be used.

    The reason completes the sentence "Numba ...", in one line: "is not installed", or
    "cannot be used (why)". Nothing is printed.
    """
    package = module.partition(".")[0]
    _, names = EXTRA_OF[module]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            found = importlib.import_module(module)
            absent = [name for name in names if not hasattr(found, name)]
    except ModuleNotFoundError as error:
        if error.name == package:
            return None, "is not installed"
        return None, f"cannot be used ({first_cause(error)})"
    except (Exception, SystemExit) as error:  # whatever a package's own code does
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None  # Ctrl-C, which a package reports in its own way
        return None, f"cannot be used ({first_cause(error)})"
    if absent:  # an empty folder of this name, or a very old version
        sys.modules.pop(module, None)
        place = getattr(found, "__file__", None) or "a folder without code"
        return None, f"cannot be used ({shown(place, 60)} has no {absent[0]})"
    return found, ""


def require(module: str, purpose: str) -> ModuleType:
    """Import a module of EXTRA_OF. Raises UserError if it cannot be used.

    purpose: what needs it, such as "writing GGUF files".
    """
    found, obstacle = find(module)
    if found is None:
        package = module.partition(".")[0]
        advice = install_hint(module)
        if obstacle != "is not installed":
            advice = f"reinstall it ({advice})"
        raise UserError(f"{purpose} needs the package {package}, which {obstacle}: {advice}")
    return found


def install_hint(module: str) -> str:
    """Return the command that installs the module."""
    extra, _ = EXTRA_OF[module]
    return f"pip install 'minimtp[{extra}]'" if extra else f"pip install {module}"


def first_cause(error: BaseException) -> str:
    """Return the original error in one short line, because libraries wrap a missing file in pages
    of advice.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (line.strip() for line in str(error).splitlines())
    return shown(
        next((line for line in lines if line.strip("=- ")), type(error).__name__), MAX_REASON
    )
