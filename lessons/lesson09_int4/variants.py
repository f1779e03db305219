"""Several ways to multiply a few rows by one matrix, and the speed of each."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, process_time

from minimtp import kernels
from minimtp.backend import Array, Device, array_module, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.kernels.ggml import blocks
from minimtp.kernels.ggml.integer_products import group_sums

FLOAT = "float32, NumPy"
DEQUANTIZED = "int4, dequantized first"
LOOP = "int4, weight by weight"
PANELS = "int4, panels"
INTEGERS = "int4, panels, int8 inputs"
KERNEL = "int4, kernel"
ROW_BY_ROW = "float32, NumPy, row by row"
ROWS = (1, 2, 4, 8, 16)
ROW = 1024  # numbers of a row of `reading_seconds`
PARALLEL_OUTPUTS = 512  # outputs that PANELS and INTEGERS compute at once


@dataclass
class Variant:
    """One way to multiply: multiply(x (T, K)) -> (T, N)."""

    multiply: Callable[[Array], Array]
    bytes_per_weight: float

    def seconds(self, x: Array) -> float:
        """Return the time of the fastest of seven calls, after one warm-up call."""
        return self.seconds_in_turns([x])[0]

    def seconds_in_turns(self, inputs: list[Array]) -> list[float]:
        """Return the same for several inputs, which take turns: the memory of a shared machine is
        slower at some times than at others.

        On the CPU this is processor time, so other programs hardly disturb it. All variants use
        one thread and never wait.
        """
        clock = process_time if isinstance(inputs[0], np.ndarray) else perf_counter
        times = []
        for _ in range(8):
            times.append([])
            for x in inputs:
                start = clock()
                self.finished(x)
                times[-1].append(clock() - start)
        return [min(of_one_input) for of_one_input in zip(*times[1:], strict=True)]

    def finished(self, x: Array) -> Array:
        """Multiply, and wait for a GPU by copying a part of the result to the host."""
        y = self.multiply(x)
        return y if isinstance(y, np.ndarray) else to_numpy(y[:, :1])


def reading_seconds(like: Array, size: int) -> float:
    """Return the time of reading `size` bytes on the device of `like`.

    They are read as float32 numbers, of which only sums are kept: by a dot product, and by the
    product of rows with a vector. The faster of the two counts.
    """
    numbers = like.ravel()[:1].repeat(size // 4)
    length = min(ROW, len(numbers))
    rows = numbers[: len(numbers) // length * length].reshape(-1, length)
    left_out = len(numbers) / rows.size  # 1, or a little more
    return min(
        Variant(lambda x: x.dot(x).reshape(1, 1), 4).seconds(numbers),
        Variant(lambda x: (x @ x[0]).reshape(1, -1), 4).seconds(rows) * left_out,
    )


class Matrix:
    """A matrix of random weights on Q4_0's grid, with all variants of multiplying by it."""

    def __init__(self, outputs: int, inputs: int, device: Device) -> None:
        rng = np.random.default_rng(0)
        self.weights, self.size = outputs * inputs, f"{outputs} x {inputs}"
        self.x = to_device(rng.standard_normal((max(ROWS), inputs)).astype(np.float32), device)
        rows = blocks.pack_q4_0(
            *blocks.encode_q4_0(rng.standard_normal((32, inputs)).astype(np.float32))
        )
        packed = np.tile(rows, (outputs // 32, 1))  # the weights repeat, but not their memory
        self.packed = on_device = to_device(packed, device)
        floats = to_device(blocks.decode(*blocks.unpack_q4_0(packed)), device)
        kernel, self.floats = kernels.for_array(self.x), floats
        prepared = kernel.prepare_q4_0(on_device)

        def dequantize_and_multiply(x: Array) -> Array:
            return x @ blocks.decode(*blocks.unpack_q4_0(on_device)).T

        self.variants = {
            FLOAT: Variant(lambda x: x @ floats.T, 4),
            DEQUANTIZED: Variant(dequantize_and_multiply, 18 / 32),
        }
        if kernels.describe(device.name)[0] == "cpu":
            self.variants |= _loops(packed)
        self.variants[KERNEL] = Variant(
            lambda x: kernel.linear(x, prepared), prepared.nbytes / self.weights
        )
        self.row_by_row = Variant(
            lambda x: array_module(x).concatenate([row[None] @ floats.T for row in x]), 4
        )

    def speeds(self) -> dict[str, float]:
        """Return the speed of each variant with one row, in Gweight/s."""
        one = self.x[:1]
        return {name: self.weights / v.seconds(one) / 1e9 for name, v in self.variants.items()}

    def errors(self) -> dict[str, float]:
        """Return the largest error of each variant's outputs for one row.

        Errors are divided by the largest output. The exact result has the rounded weights and the
        inputs as they are.
        """
        x, weights = (to_numpy(a).astype(np.float64) for a in (self.x[:1], self.floats))
        exact, size = x @ weights.T, float(abs(x @ weights.T).max())
        return {
            name: float(abs(to_numpy(v.multiply(self.x[:1])) - exact).max()) / size
            for name, v in self.variants.items()
        }

    def difference_from_sums(self) -> float:
        """Return the largest difference of the kernel's outputs from those of `group_sums`, divided
        by the largest output.
        """
        one = self.x[:1]
        codes, x_scales = kernels.for_array(one).quantize_activations(one)
        stored = self.packed.reshape(len(self.packed), -1, 18)
        sums = group_sums(codes, stored[:, :, 2:])  # (1, N, K/32)
        y = (sums * (blocks.unpack_q4_0(self.packed)[1] * x_scales[:, None])).sum(axis=-1)
        return float(abs(y - self.variants[KERNEL].multiply(one)).max() / abs(y).max())

    def read_speed(self, name: str) -> float:
        """Return the speed of only reading the weights, in Gweight/s."""
        size = int(self.variants[name].bytes_per_weight * self.weights)
        return self.weights / reading_seconds(self.x, size) / 1e9

    def cost_of_rows(self, name: str) -> list[float]:
        """Return c(T), the time for T rows over the time for one, for each T in ROWS."""
        seconds = self._variant(name).seconds_in_turns([self.x[:rows] for rows in ROWS])
        return [s / seconds[0] for s in seconds]

    def cost_of_copying(self) -> float:
        """Return the time for copying the float32 weights over the time for multiplying one row."""
        copy = array_module(self.floats).empty_like(self.floats)

        def copied(x: Array) -> Array:
            copy[...] = self.floats
            return copy[:1]

        return Variant(copied, 4).seconds(self.x) / self.variants[FLOAT].seconds(self.x[:1])

    def change_in_batch(self, name: str) -> float:
        """Return the largest difference between a row's result alone and in a batch of eight."""
        multiply, x = self._variant(name).multiply, self.x[:8]
        batch = multiply(x)
        return max(float(abs(multiply(x[i : i + 1])[0] - batch[i]).max()) for i in range(len(x)))

    def _variant(self, name: str) -> Variant:
        return self.row_by_row if name == ROW_BY_ROW else self.variants[name]


def _loops(packed: np.ndarray) -> dict[str, Variant]:
    """Return the three loops that Numba compiles. They multiply one row."""
    from lessons.lesson09_int4 import loops

    _, scales = blocks.unpack_q4_0(packed)  # (N, K/32)
    outputs, groups = scales.shape
    nibbles = packed.reshape(outputs, groups, -1)[:, :, 2:].reshape(outputs, -1)  # (N, K/2)
    width = min(PARALLEL_OUTPUTS, outputs)
    panel_nibbles, panel_scales = (
        np.ascontiguousarray(a.reshape(-1, width, a.shape[1]).swapaxes(1, 2))
        for a in (nibbles, scales)
    )

    def loop(x: np.ndarray) -> np.ndarray:
        y = np.empty((1, outputs), np.float32)
        loops.weight_by_weight(x[0], nibbles, scales, y[0])
        return y

    def panels(x: np.ndarray) -> np.ndarray:
        y = np.empty((outputs // width, width), np.float32)
        loops.panels_with_floats(x[0], panel_nibbles, panel_scales, y)
        return y.reshape(1, -1)

    def integers(x: np.ndarray) -> np.ndarray:
        codes, x_scales = kernels.for_array(x).quantize_activations(x)
        y = np.empty((outputs // width, width), np.float32)
        loops.panels_with_integers(codes[0], x_scales[0], panel_nibbles, panel_scales, y)
        return y.reshape(1, -1)

    functions = {LOOP: loop, PANELS: panels, INTEGERS: integers}
    return {name: Variant(function, 20 / 32) for name, function in functions.items()}


def shapes(width: int) -> list[tuple[int, int]]:
    """Return (outputs, inputs) of three matrices, from small to large.

    For the lesson's width they have 1, 17 and 537 MB in float32.
    """
    return [(min(a * width, 16384), min(b * width, 8192)) for a, b in ((4, 4), (16, 16), (128, 64))]
