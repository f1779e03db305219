"""Derivatives of rounding: the true one, and the step's by hand, beside differences of what is being differentiated."""

from lessons.lesson07_quantization.quantized import matrices
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Tensor
from minimtp.model.transformer import Transformer
from minimtp.quant.grids.registry import Q4_0
from minimtp.quant.qat.learned import LearnedStep

LOW, HIGH = -8, 7


def share_without_slope(model: Transformer, h: float = 1e-6) -> float:
    """The share of the weights whose code is the same h below and h above, their steps held fixed: a derivative of 0."""
    same, count = 0, 0
    for weight in matrices(model):
        _, scales = Q4_0.encode(weight)
        up, down = (
            Q4_0.nearest(weight + array_module(weight).float32(move), scales) for move in (h, -h)
        )
        same, count = same + int((up == down).sum()), count + weight.size
    return same / count


def by_hand(w: np.ndarray, step: float) -> np.ndarray:
    """LSQ's derivative of each rounded weight (n,) with respect to the step, from the library, one weight at a time."""
    slopes = []
    for value in w:
        size = Tensor(np.array([step]), requires_grad=True)
        LearnedStep(LOW, HIGH).apply(Tensor(np.array([value])), size).backward(np.ones(1))
        slopes.append(
            float(size.grad[0]) * HIGH**0.5
        )  # without the factor 1 / sqrt(elements * high)
    return np.array(slopes)


def staircase(w: np.ndarray, step: float) -> np.ndarray:
    """What the forward computes."""
    return step * np.clip(np.rint(w / step), LOW, HIGH)


def surrogate(w: np.ndarray, step: float, at: float) -> np.ndarray:
    """What LSQ differentiates: the rounding error that there is at the step `at`, in steps, stays as it is."""
    frozen = np.rint(w / at) - w / at
    inside = (w / at >= LOW) & (w / at <= HIGH)
    return np.where(inside, w + step * frozen, step * np.clip(np.rint(w / at), LOW, HIGH))


def differences(step: float = 0.1301, h: float = 1e-5) -> tuple[float, float]:
    """How far the derivative by hand lies from differences of the surrogate, and of the staircase, for 400 weights."""
    w = np.linspace(-1.3, 1.2, 400)
    hand = by_hand(w, step)
    of_surrogate = (surrogate(w, step + h, step) - surrogate(w, step - h, step)) / (2 * h)
    of_staircase = (staircase(w, step + h) - staircase(w, step - h)) / (2 * h)
    return float(np.abs(hand - of_surrogate).max()), float(np.abs(hand - of_staircase).max())
