"""What all tests share."""

import sys

import pytest
from hypothesis import HealthCheck, settings

# Examples have no time limit: the first one may compile kernels, and machines are shared. Their sequence is fixed, so that a
# failure seen once is seen again.
settings.register_profile(
    "minimtp", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("minimtp")


@pytest.fixture(params=["strict", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """A device that is not the host: the strict stand-in for CuPy always, the GPU with `pytest -m gpu`."""
    from minimtp.backend import Device, choose_device

    if request.param == "cuda":
        return choose_device("cuda")  # fails, saying why, where there is none
    from tests import strict_cupy

    monkeypatch.setitem(sys.modules, "cupy", strict_cupy)
    return Device("cuda", strict_cupy, "the strict stand-in")
