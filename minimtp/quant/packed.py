"""Packed modules: what is deployed. They hold packed rows of bytes instead of float matrices, and
no gradient passes them.

A `PackedLinear` multiplies by exactly the numbers that its fake-quantized predecessor multiplied
by, and sees its inputs rounded in exactly the same way; with the plain kernels its outputs are
equal bit for bit. How the bytes are laid out for speed is the kernels' affair: `prepare(kernel)`
gives the object that `kernel.linear` takes.

What a model costs is counted here too, everything included: blocks with their scales,
full-precision norms, and float matrices where there are any; a matrix that is used twice counts
once.
"""

from functools import partial
from types import ModuleType
from typing import Any

from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.engine.module import Module, weight_bytes
from minimtp.engine.tensor import Tensor
from minimtp.quant import packing
from minimtp.quant.grids.registry import Grid
from minimtp.quant.qat.fake_quantize import round_activations

ACTIVATIONS = ("int8", "int8-token", "none")


class PackedMatrix(Module):
    """An (N, K) matrix as packed rows.

    grid: the grid; packed: uint8 (N, `packing.row_bytes` of K); activations: what a product sees of
    its inputs, one of ACTIVATIONS; a grid whose products never round their inputs has its way.
    Raises UserError when `packed` does not hold whole rows of the grid.
    """

    def __init__(self, grid: Grid, packed: Array, activations: str = "int8") -> None:
        self.grid, self.packed = grid, packed
        self.activations = "none" if grid.inputs == "none" else activations
        self.shape = packing.matrix_shape(grid, packed)
        self._prepared: tuple[ModuleType, Any] | None = None

    def buffers(self) -> list[Array]:
        return [self.packed]

    def has_a_kernel(self, kernel: ModuleType) -> bool:
        """Whether a product of these kernels rounds weights and inputs as this matrix does."""
        return self.activations == "none" or self.has_product(kernel)

    def prepare(self, kernel: ModuleType, first: int = 0, last: int | None = None) -> Any:
        """The columns from `first` to before `last`, whole groups, laid out for `kernel.linear`.

        Made new at each call: decoding keeps it instead of this module. Where `has_a_kernel` says
        no it is laid out for the plain kernels, which round inputs in any way.
        """
        xp, last = array_module(self.packed), self.shape[1] if last is None else last
        if self.has_product(kernel):
            size, block = self.grid.group_size, self.grid.block_bytes
            packed = self.packed[:, first // size * block : last // size * block]
            return getattr(kernel, f"prepare_{self.grid.name}")(xp.ascontiguousarray(packed))
        weight = xp.ascontiguousarray(self.dequantize()[:, first:last])
        if self.activations == "none":
            return kernel.prepare_f32(weight)
        return kernels.plain.Prepared(weight, partial(round_activations, how=self.activations))

    def has_product(self, kernel: ModuleType) -> bool:
        """Whether these kernels multiply by its blocks as they are, rather than by decoded floats."""
        return self.activations == self.grid.inputs and hasattr(kernel, f"prepare_{self.grid.name}")

    def dequantize(self) -> Array:
        """The matrix as float32 (N, K)."""
        return packing.dequantize(self.grid, self.packed)

    def product(self, x: Tensor) -> Tensor:
        """x (..., K) -> x Wᵀ (..., N), with the inputs rounded first unless `activations` is
        "none".
        """
        rows = x.data.reshape(-1, x.shape[-1])  # (M, K)
        kernel = kernels.for_array(rows)
        on_kernel = self.has_a_kernel(kernel)
        if self._prepared is None or self._prepared[0] is not kernel:
            self._prepared = (
                kernel,
                self.prepare(kernel) if on_kernel else kernel.prepare_f32(self.dequantize()),
            )
        if not on_kernel:
            rows = round_activations(rows, self.activations)
        return Tensor(kernel.linear(rows, self._prepared[1]).reshape(*x.shape[:-1], self.shape[0]))


class PackedLinear(PackedMatrix):
    """y = x Wᵀ: (..., K) -> (..., N)."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(x)


class PackedEmbedding(PackedMatrix):
    """A token table: tokens (B, T) -> their rows (B, T, K) in `dtype`. Only the rows that are
    looked up are decoded.
    """

    def __init__(
        self, grid: Grid, packed: Array, activations: str = "int8", dtype: Any = "float32"
    ) -> None:
        super().__init__(grid, packed, activations)
        self.dtype = dtype

    def __call__(self, tokens: Array) -> Tensor:
        rows = packing.dequantize(self.grid, self.packed[tokens.reshape(-1)])  # (B*T, K)
        return Tensor(rows.astype(self.dtype, copy=False).reshape(*tokens.shape, -1))

    def logits(self, hidden: Tensor) -> Tensor:
        """The table as a tied output: (..., K) -> (..., N)."""
        return self.product(hidden)


def stored_arrays(model: Module) -> dict[str, Array]:
    """Everything that a file of this model has to hold, by dotted name.

    Parameters under their own names, blocks as `MODULE.packed`; what is shared is listed once,
    where it is met first. `minimtp.quant.qat.modules.restore` puts them back.
    """
    arrays = {name: parameter.data for name, parameter in model.named_parameters()}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, PackedMatrix) and id(module.packed) not in seen:
            seen.add(id(module.packed))
            arrays[f"{name}.packed" if name else "packed"] = module.packed
    return arrays


def bits_per_weight(model: Module) -> float:
    """`weight_bytes` in bits, over the number of weights; 32 for a float32 model."""
    packed = {
        id(m.packed): m.shape[0] * m.shape[1]
        for _, m in model.named_modules()
        if isinstance(m, PackedMatrix)
    }
    weights = sum(parameter.data.size for parameter in model.parameters()) + sum(packed.values())
    return 8 * weight_bytes(model) / weights
