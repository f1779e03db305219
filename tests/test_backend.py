"""The device that is chosen, and the reason that is given where a GPU cannot be used."""

import sys
from types import SimpleNamespace

import pytest

from minimtp import backend
from minimtp.backend import choose_device, numpy
from minimtp.errors import UserError


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
    """A memory pool that has no limit until it is given one."""

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
    """An array for which the library of matrix products is missing."""

    def __matmul__(self, other: object) -> None:
        raise ImportError("libcublas.so.12: cannot open shared object file: No such file or directory")


def test_a_gpu_that_adds_and_multiplies_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", StubCupy())
    device = choose_device("auto")
    assert (device.name, device.reason) == ("cuda", "usable GPU found: Stub")


def test_the_pool_of_a_chosen_gpu_has_a_limit_and_the_users_own_is_kept(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy := StubCupy())
    pool = cupy.get_default_memory_pool()
    choose_device("cuda")
    assert pool.fraction == backend.LARGEST_SHARE_OF_GPU
    pool.fraction = 0.5
    choose_device("cuda")
    assert pool.fraction == 0.5


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({"arange": raising(RuntimeError("cudaErrorNoDevice: none"))}, "compute on it: cudaErrorNoDevice"),
        ({"arange": raising(RuntimeError())}, "CuPy cannot compute on it: RuntimeError"),
        ({"arange": numpy.zeros}, "adds 0 . 1 . 2 wrongly"),
        ({"ones": lambda *shape: numpy.ones(*shape).view(Unmultiplied)}, "compute on it: libcublas.so.12: cannot open"),
        ({"ones": numpy.zeros}, "multiplies matrices of ones wrongly"),
    ],
    ids=["old driver", "no message", "wrong sum", "no cuBLAS", "wrong product"],
)
def test_a_gpu_that_cannot_compute_is_not_used_and_the_reason_is_said(monkeypatch, replaced, reason):
    monkeypatch.setitem(sys.modules, "cupy", StubCupy(**replaced))
    assert choose_device("auto").name == "cpu"
    with pytest.raises(UserError, match=reason):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "CuPy is not installed"),
        ("import no_such_dependency", "is installed and does not load: No module named 'no_such_dependency'"),
        ("raise ImportError", "is installed and does not load: ImportError"),
        (
            "try:\n    raise ImportError('libnvrtc.so.12: cannot open shared object file')\nexcept ImportError as error:\n"
            "    raise ImportError('\\n=====\\nFailed to import CuPy.\\n=====') from error",
            "is installed and does not load: libnvrtc.so.12: cannot open shared object file",
        ),
        ("raise RuntimeError('\\n=====\\nbuilt for another NumPy')", "does not load: built for another NumPy"),
    ],
    ids=["not installed", "a dependency missing", "no message", "a library missing", "another error"],
)
def test_a_cupy_that_cannot_be_imported_is_told_apart_from_one_that_is_not_there(tmp_path, monkeypatch, content, reason):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(path for path in sys.path if content is not None)])
    if content is not None:
        (tmp_path / "cupy.py").write_text(content)
    cupy, obstacle = backend._usable_cupy()
    assert cupy is None
    assert reason in obstacle
