"""Fixtures of the quantization tests."""

import pytest

from minimtp import kernels


@pytest.fixture
def plain():
    """Compute with the plain kernels."""
    kernels.use("plain")
    yield
    kernels.use("auto")
