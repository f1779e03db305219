"""Ways to multiply a few rows by one matrix, and how fast each of them is."""

from collections.abc import Callable
from dataclasses import dataclass

from lessons.course import timed
from minimtp import kernels
from minimtp.backend import Array, Device, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.kernels.ggml import blocks

FLOAT, DECODED, LOOP, BESIDE, KERNEL = (
    "float32, NumPy", "int4, decoded first", "int4, weight by weight", "int4, output by output", "int4, the kernel"
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16)
TOGETHER = 512  # outputs that BESIDE computes at once


@dataclass
class Contender:
    """multiply(x (T, K)) -> (T, N)."""

    multiply: Callable[[Array], Array]
    bytes: float  # of a weight

    def seconds(self, x: Array) -> float:
        """Of the fastest of some calls, the first not counted."""
        self.finished(x)
        return timed(self.finished, x, repeats=7)[0]

    def finished(self, x: Array) -> Array:
        y = self.multiply(x)
        return (
            y if isinstance(y, np.ndarray) else to_numpy(y[:, :1])
        )  # a GPU is done when its result can be read


class Race:
    """One matrix of `outputs` x `inputs` random weights on Q4_0's grid, and everyone who can multiply by it."""

    def __init__(self, outputs: int, inputs: int, device: Device) -> None:
        rng = np.random.default_rng(0)
        self.weights, self.size = outputs * inputs, f"{outputs} x {inputs}"
        self.x = to_device(rng.standard_normal((max(ROWS), inputs)).astype(np.float32), device)
        few = blocks.pack_q4_0(
            *blocks.encode_q4_0(rng.standard_normal((32, inputs)).astype(np.float32))
        )
        packed = np.tile(few, (outputs // 32, 1))  # weights repeat, their memory does not
        there, floats = (
            to_device(packed, device),
            to_device(blocks.decode(*blocks.unpack_q4_0(packed)), device),
        )
        kernel = kernels.for_array(self.x)
        prepared = kernel.prepare_q4_0(there)
        self.contenders = {
            FLOAT: Contender(lambda x: x @ floats.T, 4),
            DECODED: Contender(lambda x: x @ blocks.decode(*blocks.unpack_q4_0(there)).T, 18 / 32),
        }
        if kernels.describe(device.name)[0] == "cpu":
            self.contenders |= _loops(packed)
        self.contenders[KERNEL] = Contender(
            lambda x: kernel.linear(x, prepared), prepared.nbytes / self.weights
        )

    def speeds(self) -> dict[str, float]:
        """Gweight/s with one row."""
        return {
            name: self.weights / c.seconds(self.x[:1]) / 1e9 for name, c in self.contenders.items()
        }

    def memory(self, name: str) -> float:
        """Gweight/s if the weights only had to be read: the dot product of as many bytes with themselves."""
        vector = self.x.ravel()[:1].repeat(int(self.contenders[name].bytes * self.weights) // 4)
        return self.weights / Contender(lambda x: x.dot(x).reshape(1, 1), 4).seconds(vector) / 1e9

    def cost_of_rows(self, name: str) -> list[float]:
        """c(T), the time of T rows over the time of one, for the T of ROWS."""
        seconds = [self.contenders[name].seconds(self.x[:rows]) for rows in ROWS]
        return [s / seconds[0] for s in seconds]

    def change_in_company(self, name: str) -> float:
        """How far a row's result with eight rows can be from what it is alone."""
        multiply, x = self.contenders[name].multiply, self.x[:8]
        together = multiply(x)
        return max(float(abs(multiply(x[i : i + 1])[0] - together[i]).max()) for i in range(len(x)))


def _loops(packed: np.ndarray) -> dict[str, Contender]:
    """The two that Numba compiles from loops; they take one row."""
    from lessons.lesson09_int4.loops import output_beside_output, weight_by_weight

    _, scales = blocks.unpack_q4_0(packed)  # (N, K/32)
    outputs, groups = scales.shape
    nibbles = packed.reshape(outputs, groups, -1)[:, :, 2:].reshape(outputs, -1)  # (N, K/2)
    together = min(TOGETHER, outputs)
    nibbles_beside, scales_beside = (
        np.ascontiguousarray(a.reshape(-1, together, a.shape[1]).swapaxes(1, 2))
        for a in (nibbles, scales)
    )

    def loop(x: np.ndarray) -> np.ndarray:
        y = np.empty((1, outputs), np.float32)
        weight_by_weight(x[0], nibbles, scales, y[0])
        return y

    def beside(x: np.ndarray) -> np.ndarray:
        codes, x_scales = kernels.for_array(x).quantize_activations(x)
        y = np.empty((outputs // together, together), np.float32)
        output_beside_output(codes[0], x_scales[0], nibbles_beside, scales_beside, y)
        return y.reshape(1, -1)

    return {LOOP: Contender(loop, 20 / 32), BESIDE: Contender(beside, 20 / 32)}


def shapes(width: int) -> list[tuple[int, int]]:
    """A matrix that fits the nearest caches, one that fits the last, and one that fits none; smaller for smaller models."""
    return [(min(a * width, 16384), min(b * width, 8192)) for a, b in ((4, 4), (16, 16), (128, 64))]
