"""`minimtp bench kernels --device cuda`: the kernels' products, cuBLAS's and PyTorch's, on the device's own clock (gpu.py).

CuPy records no call of cuBLAS, so that row is launched call by call, and for small matrices shows what launching takes.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec

from tqdm import tqdm

from minimtp.backend import Device, empty_gpu_pool
from minimtp.bench import gpu
from minimtp.bench.kernels.speed import ROWS, figures
from minimtp.kernels import cuda
from minimtp.kernels.cuda.packed_linear import Prepared
from minimtp.kernels.ggml import blocks

OURS = ("q4_0", "q8_0", "f16", "f32", "cublas f32, launched")
TORCH = {
    "torch f16": False,
    "torch f16, graph": True,
}  # whether its calls are replayed as a CUDA graph
CALLS = 16  # of a product that are timed together
SIXTEEN_BITS = 2  # bytes


def measure_kernels_on_gpu(device: Device, shapes: Sequence[tuple[int, int]], rounds: int) -> dict[str, object]:
    """What the file says of the products, the yardsticks, and why a peer is missing."""
    products, copying, missing = [], [], _missing()
    peers = [] if missing else list(TORCH)
    with tqdm(
        total=len(shapes) * (len(OURS) + len(peers)), desc="kernels", unit="matrix", disable=None
    ) as bar:
        for shape in shapes:
            bandwidth = gpu.copy_gigabytes_per_second(device.xp)
            copying.append(bandwidth)
            for name in (*OURS, *peers):
                size, timed = (
                    _ours(device, name, shape) if name in OURS else _torch(device, name, shape)
                )
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
        "products": products, "missing": missing, "copy_gigabytes_per_second": statistics.median(copying),
        "sgemm_gflops": rates["float32"], "matrix_gflops": rates,
    }  # fmt: skip


def _copies(device: Device, size: int) -> int:
    """Of a matrix, used in turn: what fits the cache is read from it, as in decoding; of what does not, nothing may be left."""
    cache = gpu.cache_bytes(device.xp)
    return 1 if 4 * size <= cache else -(-gpu.CACHES * cache // size)


def _ours(device: Device, name: str, shape: tuple[int, int]) -> tuple[int, Callable[[int], float]]:
    """(bytes of the weights, seconds of a product of that many rows)."""
    (outputs, inputs), xp = shape, device.xp
    x, weight = gpu.noise(xp, max(ROWS), inputs), gpu.noise(xp, outputs, inputs)
    if name == "cublas f32, launched":
        copies = [weight.copy() for _ in range(_copies(device, weight.nbytes))]
        size, product = weight.nbytes, lambda rows, matrix: xp.matmul(x[:rows], matrix.T)
    else:
        first = {
            "f32": lambda: cuda.prepare_f32(weight),
            "f16": lambda: cuda.prepare_f16(weight.astype(xp.float16).view(xp.uint8)),
            "q4_0": lambda: cuda.prepare_q4_0(blocks.pack_q4_0(*blocks.encode_q4_0(weight))),
            "q8_0": lambda: cuda.prepare_q8_0(blocks.pack_q8_0(*blocks.encode_q8_0(weight))),
        }[name]()
        copies = [first, *(_copy(first) for _ in range(_copies(device, first.nbytes) - 1))]
        size, product = first.nbytes, lambda rows, matrix: cuda.linear(x[:rows], matrix)
    turns = max(CALLS, len(copies))

    def timed(rows: int) -> float:
        return gpu.seconds(
            xp, [lambda i=i: product(rows, copies[i % len(copies)]) for i in range(turns)]
        )

    return size, timed


def _copy(matrix: Prepared) -> Prepared:
    """Elsewhere in the memory."""
    return replace(
        matrix,
        weight=matrix.weight.copy(),
        scales=None if matrix.scales is None else matrix.scales.copy(),
    )


def _torch(device: Device, name: str, shape: tuple[int, int]) -> tuple[int, Callable[[int], float]]:
    from minimtp.bench.baselines.pytorch.matmul import TorchProduct

    size = SIXTEEN_BITS * shape[0] * shape[1]
    peer = TorchProduct(*shape, _copies(device, size))
    return size, lambda rows: peer.seconds(
        rows, TORCH[name], max(CALLS, len(peer.weights)), gpu.TIMES
    )


def _missing() -> dict[str, str]:
    """Why PyTorch is, if it is."""
    if find_spec("torch") is None:
        return {"PyTorch": "is not installed; pip install torch measures it too"}
    from minimtp.bench.baselines.pytorch.device import torch_on

    try:
        torch_on("cuda")
    except ImportError as error:
        return {"PyTorch": f"is left out: {str(error).splitlines()[0]}"}
    return {}
