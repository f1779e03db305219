"""The speed of the matrix products of decoding, compared with the memory bandwidth. The products of
training follow (training_products.py).

Decoding one token reads every weight once and does two operations with it. If the weights do not
fit the cache, no kernel can be faster than reading them from memory. The yardstick is therefore the
machine's own read bandwidth for the same number of bytes: the fastest of three ways to read them
(BLAS's dot product of a vector with itself, BLAS's matrix-vector product, and NumPy's maximum).
Which of the three is fastest depends on the processor. A kernel that beats all three has a share
above 100 %.

NumPy's float32 product (BLAS) is measured next to ours. Everything runs on one thread, the formats
alternate, and each figure is the median over rounds of the median of several calls. A large matrix
repeats one panel of 32 rows. Its bytes are real copies, so they have to be read from memory.

With `--device cuda` (speed_on_gpu.py) the yardsticks are the GPU's copy bandwidth and its products
of large matrices. cuBLAS takes NumPy's place, and PyTorch's half-precision product is measured too
if PyTorch with CUDA is installed.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from minimtp import kernels, machine
from minimtp.arguments import whole
from minimtp.backend import Array, choose_device
from minimtp.backend import numpy as np
from minimtp.bench.json_lines import hand_over, indented, result_file
from minimtp.bench.kernels import speed_on_gpu
from minimtp.bench.kernels.figures import ROWS, SHAPES, Product, figures
from minimtp.bench.kernels.plot import draw
from minimtp.bench.kernels.report import table
from minimtp.bench.kernels.training_products import measure_training_products, training_table
from minimtp.errors import UserError
from minimtp.files import check_file
from minimtp.kernels.ggml import blocks

FORMATS = ("q4_0", "q8_0", "f32", "numpy")
RESULT = result_file("kernels")
SECONDS = 0.02  # total time of the calls for one figure of a round


@dataclass
class TimedProduct:
    """The product of T rows with one matrix; `call(rows)` computes it."""

    format: str
    weights: int
    bytes: int
    call: Callable[[int], Array]


def measure_kernels(
    *,
    max_size: int = 512,
    rounds: int = 5,
    device: str = "cpu",
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure every format on every matrix of at most `max_size` MB in float32.

    Returns the result. With `out` (a file name), also saves it as JSON and plots it. Raises
    UserError if an option is out of range or there are no compiled kernels: this command does not
    measure plain array code.
    """
    whole(1, 1 << 14)("max_size", max_size)
    whole(1, 1_000)("rounds", rounds)
    if out is not None:
        check_file(out, RESULT)
    chosen = choose_device(device)
    kernel, reason = kernels.describe(chosen.name)
    if kernel == "plain":
        raise UserError(f"there are no compiled kernels to measure: {reason}")
    load = machine.load()
    machine.warn_if_busy(load, report)
    shapes = [shape for shape in SHAPES if 4 * shape[0] * shape[1] <= max_size << 20]
    if chosen.name == "cuda":
        found = speed_on_gpu.measure_kernels_on_gpu(chosen, shapes, rounds)
    else:
        found = _measure_all(shapes, max_size, rounds)
    result = {
        "measurement": "kernels", "device": chosen.name, "rounds": rounds, "rows": list(ROWS),
        "threads": 1, **found, "machine": machine.describe(load, chosen.name),
        "versions": machine.versions(),
    }  # fmt: skip
    hand_over(result, _tables, out, RESULT, report, encode=indented, draw=draw)
    return result


def _tables(result: dict[str, object]) -> str:
    products = result.get("training_products")
    return table(result) + ("\n" + training_table(products) if products else "")


def _measure_all(
    shapes: Sequence[tuple[int, int]], max_size: int, rounds: int
) -> dict[str, object]:
    measured = []
    with tqdm(total=len(shapes) * len(FORMATS), desc="kernels", unit="matrix", disable=None) as bar:
        for shape in shapes:
            measured += _measure(shape, rounds, bar.update)
    peak = statistics.median(machine.sgemm_gflops(1) for _ in range(rounds))
    training = measure_training_products(max_size << 18, rounds)
    return {"products": measured, "sgemm_gflops": peak, "training_products": training}


def _measure(
    shape: tuple[int, int], rounds: int, progress: Callable[[int], object]
) -> list[Product]:
    """Measure every format for one matrix, alternating between the formats."""
    products = []
    for format_ in FORMATS:
        products.append(_timed_product(format_, shape))
        progress(1)
    readers = {product.bytes: _readers(product.bytes) for product in products}
    seconds = {product.format: {rows: [] for rows in ROWS} for product in products}
    reading = {size: [] for size in readers}
    for _ in range(rounds):
        for size, ways in readers.items():
            reading[size].append(min(map(_seconds, ways)))
        for rows in ROWS:
            for product in products:
                call = product.call
                seconds[product.format][rows].append(_seconds(lambda c=call, n=rows: c(n)))
    return [
        figures(p.format, p.bytes, shape, seconds[p.format], reading[p.bytes]) for p in products
    ]


def _timed_product(format_: str, shape: tuple[int, int]) -> TimedProduct:
    outputs, inputs = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((max(ROWS), inputs)).astype(np.float32)
    panel = rng.standard_normal((32, inputs)).astype(np.float32)
    kernel = kernels.for_array(x)
    y = np.empty((max(ROWS), outputs), np.float32)
    if format_ == "numpy":
        transposed = np.tile(panel, (outputs // 32, 1)).T  # (inputs, outputs)
        return TimedProduct(
            format_,
            transposed.size,
            transposed.nbytes,
            lambda rows: np.matmul(x[:rows], transposed, out=y[:rows]),
        )
    if format_ == "f32":
        prepared = kernel.prepare_f32(panel)
    elif format_ == "q4_0":
        prepared = kernel.prepare_q4_0(blocks.pack_q4_0(*blocks.encode_q4_0(panel)))
    else:
        prepared = kernel.prepare_q8_0(blocks.pack_q8_0(*blocks.encode_q8_0(panel)))
    matrix = prepared.repeated(outputs // 32)
    return TimedProduct(
        format_,
        outputs * inputs,
        matrix.nbytes,
        lambda rows: kernel.linear(x[:rows], matrix, y[:rows]),
    )


def _readers(size: int) -> tuple[Callable[[], object], ...]:
    """Return three ways to read `size` bytes."""
    vector = np.ones(max(1, size // 4), np.float32)
    width = math.isqrt(vector.size)
    matrix = vector[: vector.size // width * width].reshape(-1, width)
    return (
        lambda: np.dot(vector, vector),
        lambda: np.matmul(vector[: len(matrix)], matrix),
        vector.max,
    )


def read_seconds(size: int, rounds: int) -> float:
    """Return the seconds in which one thread reads `size` bytes: the median over rounds of the
    fastest way.
    """
    ways = _readers(size)
    return statistics.median(min(map(_seconds, ways)) for _ in range(rounds))


def _seconds(call: Callable[[], object]) -> float:
    """Return the median time of calls that together take about SECONDS, after one warm-up call."""
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        started = perf_counter()
        call()
        times.append(perf_counter() - started)
    return statistics.median(times)
