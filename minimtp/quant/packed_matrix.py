"""Packed modules, for deployment: they hold bytes (codes and scales) instead of floats, and have no
gradients.

A `PackedLinear` multiplies by exactly the numbers that its fake-quantized form multiplied by, and
rounds its inputs in exactly the same way. With the plain kernels its outputs are equal bit for bit.

From the bytes to a kernel's own layout:  `PackedMatrix.prepare`  ->  `Q4_0Grid.prepare`
(grids/ggml.py)  -> `prepare_q4_0` of the kernels (kernels/plain, kernels/cpu, kernels/cuda)  ->
the argument of their `linear`.
"""

from functools import partial
from types import ModuleType

from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.engine.module import Module, named_arrays
from minimtp.engine.tensor import Tensor
from minimtp.kernels.plain.packed_linear import PreparedMatrix
from minimtp.model.matrix import Matrix, TokenTable
from minimtp.quant import packing
from minimtp.quant.activations import round_activations
from minimtp.quant.grids import Grid


class PackedMatrix(Matrix):
    """An (N, K) matrix as packed rows.

    packed: uint8 (N, bytes per row), see `minimtp.quant.packing`. activations: how a matmul rounds
    its inputs, one of ACTIVATIONS; "none" for grids whose matmuls never round them.
    Raises UserError if `packed` does not hold whole rows of the grid.
    """

    def __init__(self, grid: Grid, packed: Array, activations: str = "int8") -> None:
        self.grid, self.packed = grid, packed
        self.activations = "none" if grid.inputs == "none" else activations
        self._shape = packing.matrix_shape(grid, packed)
        self._prepared: tuple[ModuleType, PreparedMatrix] | None = None  # for `matmul`
        self._selected: tuple[Array, PackedLinear] | None = None  # for `matmul_rows`

    def __getstate__(self) -> dict[str, object]:
        # Prepared matrices have kernels, which cannot be pickled. They are laid out again.
        return vars(self) | {"_prepared": None, "_selected": None}

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def stored(self) -> Array:
        return self.packed

    def is_exact_on(self, kernel: ModuleType) -> bool:
        return self.activations == "none" or self.stays_packed_on(kernel)

    def stays_packed_on(self, kernel: ModuleType) -> bool:
        return self.grid.has_kernels and self.activations == self.grid.inputs

    def prepare(
        self, kernel: ModuleType, first: int = 0, last: int | None = None
    ) -> PreparedMatrix:
        """Lay out the columns first..last-1 for `kernel.linear`. Every call makes a new copy.

        If the kernels are not exact, the matrix is laid out for the plain ones, which can round
        inputs in any way.
        """
        xp, last = array_module(self.packed), self.shape[1] if last is None else last
        if self.stays_packed_on(kernel):
            size, block = self.grid.group_size, self.grid.block_bytes
            packed = self.packed[:, first // size * block : last // size * block]
            return self.grid.prepare(xp.ascontiguousarray(packed), kernel)
        weight = xp.ascontiguousarray(self.dequantize()[:, first:last])  # (N, last - first)
        if self.activations == "none":
            return kernel.prepare_f32(weight)
        return kernels.plain.Prepared(weight, partial(round_activations, how=self.activations))

    def matmul_rows(self, x: Tensor, rows: Array) -> Tensor:
        if self._selected is None or self._selected[0] is not rows:
            self._selected = (rows, self.select(rows))
        return self._selected[1].matmul(x)

    def select(self, rows: Array) -> "PackedLinear":
        packed = self.packed[array_module(self.packed).asarray(rows)]
        return PackedLinear(self.grid, packed, self.activations)

    def dequantize(self) -> Array:
        """Return the matrix as float32 (N, K)."""
        return packing.dequantize(self.grid, self.packed)

    def matmul(self, x: Tensor) -> Tensor:
        """x (..., K) -> x Wᵀ (..., N), with the inputs rounded first unless `activations` is
        "none".
        """
        rows = x.data.reshape(-1, x.shape[-1])  # (M, K)
        kernel = kernels.for_array(rows)
        is_exact = self.is_exact_on(kernel)
        if self._prepared is None or self._prepared[0] is not kernel:
            prepared = self.prepare(kernel) if is_exact else kernel.prepare_f32(self.dequantize())
            self._prepared = (kernel, prepared)
        if not is_exact:
            rows = round_activations(rows, self.activations)
        y = kernel.linear(rows, self._prepared[1])  # (M, N)
        return Tensor(y.reshape(*x.shape[:-1], self.shape[0]))


class PackedLinear(PackedMatrix):
    """y = x Wᵀ: (..., K) -> (..., N)."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.matmul(x)


class PackedEmbedding(PackedMatrix, TokenTable):
    """A token table: tokens (B, T) -> their rows (B, T, D) in `dtype`. Only rows that are looked up
    are decoded.
    """

    def __init__(
        self, grid: Grid, packed: Array, activations: str = "int8", dtype: str = "float32"
    ) -> None:
        super().__init__(grid, packed, activations)
        self.dtype = dtype

    def __call__(self, tokens: Array) -> Tensor:
        return Tensor(self.rows(tokens.reshape(-1)).reshape(*tokens.shape, -1))

    def rows(self, tokens: Array) -> Array:
        rows = packing.dequantize(self.grid, self.packed[tokens])  # (T, D) float32
        return rows.astype(self.dtype, copy=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """The table as a tied output: (..., D) -> (..., V)."""
        return self.matmul(hidden)


def stored_arrays(model: Module) -> dict[str, Array]:
    """Return all arrays that a file of this model must hold, by dotted name.

    Parameters and Indices have their own names; packed rows are called `MODULE.packed`. A shared
    array is listed once, under the name that comes first. `minimtp.quant.qat.convert.restore` puts
    the arrays back into a model.
    """
    arrays = named_arrays(model)
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, PackedMatrix) and id(module.packed) not in seen:
            seen.add(id(module.packed))
            arrays[packed_name(name)] = module.packed
    return arrays


def packed_name(module_name: str) -> str:
    """Return the name in a file of a module's packed rows."""
    return f"{module_name}.packed" if module_name else "packed"
