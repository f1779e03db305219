"""Derivatives of rounding: the true one, LSQ's, and finite differences of two functions."""

from lessons.lesson07_quantization.quantized import matrices
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.model.transformer import Transformer
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.qat.learned import FakeQuantizeLearned

GRID = grid_named("int4-full-mid-channel")  # codes -8..7, one scale per row
LOW, HIGH = GRID.min_code, GRID.max_code


def share_without_slope(model: Transformer, h: float = 1e-6) -> float:
    """Return the fraction of the weights whose codes at w - h and w + h are equal."""
    same, count = 0, 0
    for weight in matrices(model):
        _, scales = Q4_0.encode(weight)
        h_like = array_module(weight).float32(h)
        codes = [Q4_0.nearest(moved, scales) for moved in (weight + h_like, weight - h_like)]
        same += int((codes[0] == codes[1]).sum())
        count += weight.size
    return same / count


def lsq_derivative(w: np.ndarray, scale: float) -> np.ndarray:
    """Return the library's LSQ derivative of each rounded weight (n,) with respect to the scale.

    scale: a float16 number, as the grid stores it.
    """
    row = w[None]  # (1, n)
    log_step = np.log(scale / GRID.encode(row)[1]).reshape(1)  # t
    operation = FakeQuantizeLearned(GRID)
    operation.forward(row, log_step)
    one_hot = np.eye(len(w))
    by_log_step = [operation.backward(one[None])[1].item() for one in one_hot]  # dq/dt
    return np.array(by_log_step) / scale  # dq/ds


def rounded(w: np.ndarray, scale: float) -> np.ndarray:
    """Return the result of the forward pass: a step function."""
    return scale * np.clip(np.rint(w / scale), LOW, HIGH)


def surrogate(w: np.ndarray, scale: float, at: float) -> np.ndarray:
    """Return the function that LSQ differentiates.

    The rounding error in units of the scale is kept fixed at its value for the scale `at`.
    """
    error = np.rint(w / at) - w / at
    inside = (w / at >= LOW) & (w / at <= HIGH)
    return np.where(inside, w + scale * error, scale * np.clip(np.rint(w / at), LOW, HIGH))


def max_differences(scale: float = 0.13, h: float = 1e-5) -> tuple[float, float]:
    """Compare LSQ's derivative for 400 weights with finite differences in the scale.

    Returns the largest difference from the surrogate's, and from the step function's.
    """
    scale = float(np.float16(scale))
    w = np.linspace(-1.3, 1.2, 400)
    lsq = lsq_derivative(w, scale)
    of_surrogate = (surrogate(w, scale + h, scale) - surrogate(w, scale - h, scale)) / (2 * h)
    of_rounded = (rounded(w, scale + h) - rounded(w, scale - h)) / (2 * h)
    return float(np.abs(lsq - of_surrogate).max()), float(np.abs(lsq - of_rounded).max())
