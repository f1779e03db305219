"""Derivatives of rounding: the true one, and the step's by hand, beside differences of what is being differentiated."""

from lessons.lesson07_quantization.quantized import products
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.model.transformer import Transformer
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.qat.learned import FakeQuantizeLearned

GRID = grid_named("int4-full-mid-channel")  # codes -8..7, one step per row
LOW, HIGH = GRID.min_code, GRID.max_code


def share_without_slope(model: Transformer, h: float = 1e-6) -> float:
    """The share of the weights whose code is the same h below and h above, their steps held fixed: a derivative of 0."""
    same, count = 0, 0
    for weight in products(model):
        _, scales = Q4_0.encode(weight)
        up, down = (
            Q4_0.nearest(weight + array_module(weight).float32(move), scales) for move in (h, -h)
        )
        same, count = same + int((up == down).sum()), count + weight.size
    return same / count


def by_hand(w: np.ndarray, step: float) -> np.ndarray:
    """Return LSQ's derivative of each rounded weight (n,) with respect to the step, from the library.

    step: a float16 number, as a grid stores it.
    """
    group = w[None]  # (1, n)
    log_step = np.log(step / GRID.encode(group)[1]).reshape(1)
    operation = FakeQuantizeLearned(GRID)
    operation.forward(group, log_step)
    slopes = [operation.backward(one[None])[1].item() for one in np.eye(len(w))]  # dq/dt, one by one
    return np.array(slopes) / step  # dq/ds


def staircase(w: np.ndarray, step: float) -> np.ndarray:
    """What the forward computes."""
    return step * np.clip(np.rint(w / step), LOW, HIGH)


def surrogate(w: np.ndarray, step: float, at: float) -> np.ndarray:
    """What LSQ differentiates: the rounding error that there is at the step `at`, in steps, stays as it is."""
    frozen = np.rint(w / at) - w / at
    inside = (w / at >= LOW) & (w / at <= HIGH)
    return np.where(inside, w + step * frozen, step * np.clip(np.rint(w / at), LOW, HIGH))


def differences(step: float = 0.13, h: float = 1e-5) -> tuple[float, float]:
    """How far the derivative by hand lies from differences of the surrogate, and of the staircase, for 400 weights."""
    step = float(np.float16(step))
    w = np.linspace(-1.3, 1.2, 400)
    hand = by_hand(w, step)
    of_surrogate = (surrogate(w, step + h, step) - surrogate(w, step - h, step)) / (2 * h)
    of_staircase = (staircase(w, step + h) - staircase(w, step - h)) / (2 * h)
    return float(np.abs(hand - of_surrogate).max()), float(np.abs(hand - of_staircase).max())
