"""Two numbers of this machine: how fast one core reads, and how fast it multiplies."""

from dataclasses import dataclass

from msgspec import structs

from lessons.lesson09_int4.variants import Variant, reading_seconds
from minimtp import kernels
from minimtp.backend import Device, to_device
from minimtp.backend import numpy as np
from minimtp.kernels.ggml import blocks
from minimtp.machine import processor
from minimtp.plan.costs.sizes import GIGA, Hardware
from minimtp.plan.measured import this_machine

ROWS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Product:
    """The product of T rows with one matrix, in a number format.

    bytes: of all weights. read: bytes per second of only reading as many. seconds: by T.
    """

    weights: int
    bytes: int
    read: float
    seconds: dict[int, float]

    @property
    def peak(self) -> float:
        """Operations per second with the most rows: a multiplication and an addition per weight."""
        rows = max(self.seconds)
        return 2 * self.weights * rows / self.seconds[rows]

    @property
    def balance(self) -> float:
        """The rows at which reading and multiplying take the same time."""
        return self.bytes / self.read / (2 * self.weights / self.peak)

    def predicted(self, rows: int) -> float:
        """Return the seconds by the roofline."""
        return max(self.bytes / self.read, 2 * self.weights * rows / self.peak)


def measure(outputs: int, inputs: int, device: Device) -> dict[str, Product]:
    """Return the products of a matrix (outputs, inputs) by number format."""
    rng = np.random.default_rng(0)
    x = to_device(rng.standard_normal((max(ROWS), inputs)).astype(np.float32), device)
    panel = rng.standard_normal((32, inputs)).astype(np.float32)
    packed = blocks.pack_q4_0(*blocks.encode_q4_0(panel))
    kernel = kernels.for_array(x)
    copies = (outputs // 32, 1)  # the weights repeat, but not their memory
    prepared = {
        "float32": kernel.prepare_f32(to_device(np.tile(panel, copies), device)),
        "int4": kernel.prepare_q4_0(to_device(np.tile(packed, copies), device)),
    }
    products = {}
    for name, matrix in prepared.items():
        each = matrix.nbytes / (outputs * inputs)
        product = Variant(lambda x, matrix=matrix: kernel.linear(x, matrix), each)
        seconds = {rows: product.seconds(x[:rows]) for rows in ROWS}
        read = matrix.nbytes / reading_seconds(x, matrix.nbytes)
        products[name] = Product(outputs * inputs, matrix.nbytes, read, seconds)
    return products


def as_hardware(products: dict[str, Product], device: Device) -> Hardware:
    """Return this core as hardware for a plan. Its rates are measured, so nothing is assumed about
    the share of them that a pass reaches.
    """
    float32, int4 = products["float32"], products["int4"]
    return structs.replace(
        this_machine(processor(device.name)),
        gigabytes_per_second=float32.read / GIGA,
        teraflops=float32.peak / 1e12,
        teraflops_int4=int4.peak / 1e12,
        bandwidth_efficiency=1.0,
        compute_efficiency=1.0,
        linked_devices=1,
    )
