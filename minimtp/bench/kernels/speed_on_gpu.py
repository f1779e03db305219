"""The kernels' matrix products, cuBLAS's and PyTorch's on a GPU, timed by the device's own clock.

CuPy cannot record calls of cuBLAS into a CUDA graph. The cuBLAS row is therefore launched call by
call, and for small matrices we measure the time of a launch.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec

from tqdm import tqdm

from minimtp.backend import Device, empty_gpu_pool
from minimtp.bench import gpu
from minimtp.bench.kernels.figures import ROWS, figures
from minimtp.kernels import cuda
from minimtp.kernels.cuda.packed_linear import Prepared
from minimtp.kernels.ggml import blocks

OURS = ("q4_0", "q8_0", "f16", "f32", "cublas f32, launched")
TORCH = {"torch f16": False, "torch f16, graph": True}  # name: whether it replays a CUDA graph
CALLS = 16  # products timed together
HALF_PRECISION_BYTES = 2
SecondsByRows = Callable[[int], float]


def measure_kernels_on_gpu(
    device: Device, shapes: Sequence[tuple[int, int]], rounds: int
) -> dict[str, object]:
    """Measure all products. Return them, the yardsticks, and why a baseline is missing."""
    products, copying, missing = [], [], _missing()
    baselines = [] if missing else list(TORCH)
    names = (*OURS, *baselines)
    total = len(shapes) * len(names)
    with tqdm(total=total, desc="kernels", unit="matrix", disable=None) as bar:
        for shape in shapes:
            bandwidth = gpu.copy_gigabytes_per_second(device.xp)
            copying.append(bandwidth)
            for name in names:
                measured = _ours if name in OURS else _torch
                size, timed = measured(device, name, shape)
                seconds = {rows: [] for rows in ROWS}
                for _ in range(rounds):
                    for rows in ROWS:
                        seconds[rows].append(timed(rows))
                products.append(figures(name, size, shape, seconds, [size / bandwidth / 1e9]))
                del timed
                empty_gpu_pool()
                bar.update()
    rates = gpu.matrix_gflops_by_precision(device)
    return {
        "products": products, "missing": missing,
        "copy_gigabytes_per_second": statistics.median(copying),
        "sgemm_gflops": rates["float32"], "matrix_gflops": rates,
    }  # fmt: skip


def _copies(device: Device, size: int) -> int:
    """Return the number of copies of a matrix that are used alternately.

    A matrix that fits the cache is read from the cache, as in decoding. A larger matrix must have
    left the cache completely when it is used again.
    """
    cache = gpu.cache_bytes(device.xp)
    return 1 if 4 * size <= cache else -(-gpu.CACHES * cache // size)


def _ours(device: Device, name: str, shape: tuple[int, int]) -> tuple[int, SecondsByRows]:
    """(bytes of the weights, function that returns the seconds of a product of that many rows)."""
    outputs, inputs = shape
    xp = device.xp
    x = gpu.noise(xp, max(ROWS), inputs)
    weight = gpu.noise(xp, outputs, inputs)
    if name == "cublas f32, launched":
        copies = [weight.copy() for _ in range(_copies(device, weight.nbytes))]
        size = weight.nbytes
        multiply = lambda rows, matrix: xp.matmul(x[:rows], matrix.T)  # noqa: E731
    else:
        first = {
            "f32": lambda: cuda.prepare_f32(weight),
            "f16": lambda: cuda.prepare_f16(weight.astype(xp.float16).view(xp.uint8)),
            "q4_0": lambda: cuda.prepare_q4_0(blocks.pack_q4_0(*blocks.encode_q4_0(weight))),
            "q8_0": lambda: cuda.prepare_q8_0(blocks.pack_q8_0(*blocks.encode_q8_0(weight))),
        }[name]()
        copies = [first, *(_copy(first) for _ in range(_copies(device, first.nbytes) - 1))]
        size = first.nbytes
        multiply = lambda rows, matrix: cuda.linear(x[:rows], matrix)  # noqa: E731
    count = max(CALLS, len(copies))

    def timed(rows: int) -> float:
        calls = [lambda i=i: multiply(rows, copies[i % len(copies)]) for i in range(count)]
        return gpu.seconds(xp, calls)

    return size, timed


def _copy(matrix: Prepared) -> Prepared:
    """Return a copy of the matrix at another place in memory."""
    scales = None if matrix.scales is None else matrix.scales.copy()
    return replace(matrix, weight=matrix.weight.copy(), scales=scales)


def _torch(device: Device, name: str, shape: tuple[int, int]) -> tuple[int, SecondsByRows]:
    from minimtp.bench.baselines.pytorch.matmul import TorchProduct

    size = HALF_PRECISION_BYTES * shape[0] * shape[1]
    baseline = TorchProduct(*shape, _copies(device, size))
    calls = max(CALLS, len(baseline.weights))
    return size, lambda rows: baseline.seconds(rows, TORCH[name], calls, gpu.TIMES)


def _missing() -> dict[str, str]:
    """Return why PyTorch is not measured, {} if it is."""
    if find_spec("torch") is None:
        return {"PyTorch": "is not installed; pip install torch to measure it too"}
    from minimtp.bench.baselines.pytorch.device import torch_on

    try:
        torch_on("cuda")
    except ImportError as error:
        return {"PyTorch": f"is left out: {str(error).splitlines()[0]}"}
    return {}
