"""Fixtures for the quantization tests."""

import pytest

from minimtp import kernels


@pytest.fixture
def plain():
    """Use the plain kernels during the test."""
    kernels.use("plain")
    yield
    kernels.use("auto")
