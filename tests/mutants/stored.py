"""Stored bytes of ggml, loaded once. This file defines no mutants."""

from functools import cache
from pathlib import Path

from minimtp.backend import numpy as np


@cache
def stored_bytes():
    return np.load(Path(__file__).parents[1] / "vectors" / "ggml.npz")
