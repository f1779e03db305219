"""The choice of the device, the reasons why a GPU cannot be used, and the threads of BLAS."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from minimtp import backend
from minimtp.backend import BLAS_THREAD_VARIABLES, choose_device, numpy
from minimtp.errors import UserError
from minimtp.machine import available_cores


class StubCupy(SimpleNamespace):
    """A CuPy that computes with NumPy, on a GPU called Stub."""

    def __init__(self, **replaced: object) -> None:
        runtime = SimpleNamespace(getDeviceProperties=lambda number: {"name": b"Stub"})
        cuda = SimpleNamespace(runtime=runtime, Device=lambda: SimpleNamespace(id=0))
        pool = StubPool()
        super().__init__(**{
            "arange": numpy.arange, "ones": numpy.ones, "cuda": cuda, "ndarray": type(None),
            "get_default_memory_pool": lambda: pool,
        } | replaced)  # fmt: skip


class StubPool:
    """A memory pool without a limit until one is set."""

    fraction = 0

    def get_limit(self) -> float:
        return self.fraction

    def set_limit(self, *, fraction: float) -> None:
        self.fraction = fraction


def raising(error: Exception):
    def fail(*arguments: object) -> None:
        raise error

    return fail


class Unmultiplied(numpy.ndarray):
    """An array without the library for matrix products."""

    def __matmul__(self, other: object) -> None:
        raise ImportError(
            "libcublas.so.12: cannot open shared object file: No such file or directory"
        )


def test_a_gpu_that_adds_and_multiplies_correctly_is_chosen(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", StubCupy())
    device = choose_device("auto")
    assert (device.name, device.reason) == ("cuda", "usable GPU found: Stub")


def test_choosing_a_gpu_limits_its_memory_pool_unless_the_user_has_set_a_limit(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy := StubCupy())
    pool = cupy.get_default_memory_pool()
    choose_device("cuda")
    assert pool.fraction == backend.MAX_POOL_SHARE
    pool.fraction = 0.5
    choose_device("cuda")
    assert pool.fraction == 0.5


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        (
            {"arange": raising(RuntimeError("cudaErrorNoDevice: none"))},
            "compute on it: cudaErrorNoDevice",
        ),
        ({"arange": raising(RuntimeError())}, "CuPy cannot compute on it: RuntimeError"),
        ({"arange": numpy.zeros}, "adds 0 . 1 . 2 wrongly"),
        (
            {"ones": lambda *shape: numpy.ones(*shape).view(Unmultiplied)},
            "compute on it: libcublas.so.12: cannot open",
        ),
        ({"ones": numpy.zeros}, "multiplies matrices of ones wrongly"),
    ],
    ids=["old driver", "no message", "wrong sum", "no cuBLAS", "wrong product"],
)
def test_auto_never_chooses_a_gpu_that_cannot_compute_and_cuda_raises_the_reason(
    monkeypatch, replaced, reason
):
    monkeypatch.setitem(sys.modules, "cupy", StubCupy(**replaced))
    assert choose_device("auto").name == "cpu"
    with pytest.raises(UserError, match=reason):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "CuPy is not installed"),
        ("import no_such_dependency", "cannot be used (No module named 'no_such_dependency'"),
        ("raise ImportError", "cannot be used (ImportError)"),
        (
            "try:\n    raise ImportError('libnvrtc.so.12: cannot open shared object file')\n"
            "except ImportError as error:\n"
            "    raise ImportError('\\n=====\\nFailed to import CuPy.\\n=====') from error",
            "cannot be used (libnvrtc.so.12: cannot open shared object file",
        ),
        (
            "raise RuntimeError('\\n=====\\nbuilt for another NumPy')",
            "cannot be used (built for another NumPy)",
        ),
    ],
    ids=[
        "not installed",
        "a dependency missing",
        "no message",
        "a library missing",
        "another error",
    ],
)
def test_a_broken_cupy_and_a_missing_cupy_give_different_reasons(
    tmp_path, monkeypatch, content, reason
):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(
        sys, "path", [str(tmp_path), *(path for path in sys.path if content is not None)]
    )
    if content is not None:
        (tmp_path / "cupy.py").write_text(content)
    cupy, obstacle = backend._usable_cupy()
    assert cupy is None
    assert reason in obstacle


can_count_threads = pytest.mark.skipif(
    available_cores() < 2 or not Path("/proc/self/task").is_dir(),
    reason="needs two cores, and /proc to count threads in",
)
COUNTING = """
import os
from minimtp import kernels
from minimtp.backend import numpy as np
def threads(): return len(os.listdir("/proc/self/task"))
x = np.ones((512, 512), np.float32)
"""


def told(code: str, **environment: str) -> object:
    """Run code in a new interpreter and return the JSON that it prints.

    No other variable of its environment configures BLAS.
    """
    root = str(Path(backend.__file__).parents[1])
    others = {
        name: value for name, value in os.environ.items() if name not in BLAS_THREAD_VARIABLES
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=others | {"PYTHONPATH": root} | environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@can_count_threads
def test_a_matrix_product_uses_one_thread_unless_the_environment_sets_more():
    code = COUNTING + "x @ x; print(threads())"
    assert told(code) == 1
    assert told(code, OPENBLAS_NUM_THREADS="2") > 1
    assert told(code, OMP_NUM_THREADS="2") > 1


@pytest.mark.parametrize("variable", BLAS_THREAD_VARIABLES)
def test_thread_variables_set_by_the_user_are_not_changed(variable):
    """OpenBLAS prefers its own variable to OMP_NUM_THREADS. So it must not be set as well."""
    code = "import json, os; from minimtp import backend as b\n"
    code += (
        "names = [name for name in b.BLAS_THREAD_VARIABLES if name in os.environ]\n"
        "print(json.dumps({name: os.environ[name] for name in names}))"
    )
    ours = {} if variable == "OMP_NUM_THREADS" else dict.fromkeys(BLAS_THREAD_VARIABLES, "1")
    assert told(code, **{variable: "3"}) == ours | {variable: "3"}
    assert told(code) == told(code, **{variable: ""}) == dict.fromkeys(BLAS_THREAD_VARIABLES, "1")


@can_count_threads
@pytest.mark.skipif(find_spec("numba") is None, reason="needs Numba, which compiles the loops")
def test_alternating_matrix_products_and_compiled_loops_starts_no_thread():
    code = (
        COUNTING
        + """
compiled, counts = kernels.for_array(x), []
for _ in range(3):
    x @ x
    counts.append(threads())
    compiled.rms_norm(x, x[0], 1e-5)
    counts.append(threads())
assert compiled.__name__ == "minimtp.kernels.cpu"
print(counts)
"""
    )
    assert told(code, MINIMTP_KERNELS="auto") == [1] * 6
