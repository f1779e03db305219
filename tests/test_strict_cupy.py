"""The stand-in for CuPy rejects what a GPU rejects and has no functions that CuPy lacks."""

import importlib.util
import subprocess
import sys

import pytest

from minimtp.backend import numpy as np
from tests import strict_cupy


@pytest.mark.parametrize(
    "operation",
    [
        lambda array, host: np.asarray(array),
        lambda array, host: np.exp(array),
        lambda array, host: array + host,
        lambda array, host: host * array,
        lambda array, host: array[[0, 1]],
        lambda array, host: array.__setitem__(0, host),
        lambda array, host: strict_cupy.concatenate([array, host]),
        lambda array, host: array[array.argmax() :],
        lambda array, host: strict_cupy.ones((2, 4))[:, :2].view(complex),
    ],
)
def test_the_stand_in_rejects_an_operation_that_fails_on_a_gpu(operation):
    with pytest.raises(TypeError):
        operation(strict_cupy.ones(3), np.ones(3))


def test_reductions_elements_and_products_with_host_numbers_are_arrays_of_the_stand_in():
    array = strict_cupy.ones(3)
    assert type(array.sum()) is type(array[0]) is strict_cupy.ndarray
    assert isinstance(np.float32(2) * array, strict_cupy.ndarray)


@pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None,
    reason="CuPy is not installed, so the names cannot be compared",
)
def test_every_function_of_the_stand_in_exists_in_cupy():
    functions = {
        name
        for name, value in vars(strict_cupy).items()
        if callable(value) and not name.startswith("_")
    }
    functions -= {"Refused", "CaptureError", "SimpleNamespace"}
    methods = {name for name in vars(strict_cupy.ndarray) if not name.startswith("_")}
    code = (
        f"import cupy; print([n for n in {functions} if not hasattr(cupy, n)],"
        f" [n for n in {methods} if not hasattr(cupy.ndarray, n)])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == ["[]", "[]"]
