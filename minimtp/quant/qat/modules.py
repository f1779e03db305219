"""Fake-quantized modules: they keep full-precision master weights and round them on every use.

The master weights are the same Parameter objects as before `prepare_qat`. So the optimizer, flat
arrays, gradients and checkpoints need no change, and updates much smaller than a quantization step
are not lost. The forward pass rounds the weights to their grid (fake_quantize.py) and the
activations as the integer kernels will. It also does so in evaluation: without the rounding, we
would measure the loss of another model.
"""

from types import ModuleType

from minimtp.backend import Array, array_module
from minimtp.engine.tensor import Op, Parameter, Tensor
from minimtp.kernels.plain.packed_linear import PreparedMatrix
from minimtp.model.matrix import Matrix
from minimtp.quant import packing
from minimtp.quant.grids import Grid
from minimtp.quant.grids.base import Scales
from minimtp.quant.qat.fake_quantize import (
    FakeQuantize,
    FakeQuantizedLookup,
    FakeQuantizedMatMul,
    FakeQuantizedRows,
    RoundedMatMul,
)
from minimtp.quant.qat.learned import FakeQuantizeLearned, encode_learned
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.quant.qat.start_steps import FakeQuantizeFromStart, encode_from_start, encode_table


class FakeQuantizedMatrix(Matrix):
    """Master weights (N, K) that every use sees rounded. `name` is what errors call the module."""

    def __init__(self, weight: Parameter, grid: Grid, spec: QuantizationSpec, name: str) -> None:
        self.weight, self.grid, self.spec, self.name = weight, grid, spec, name

    @property
    def activations(self) -> str:
        """How a matmul rounds its inputs, one of ACTIVATIONS."""
        return "none" if self.grid.inputs == "none" else self.spec.activations

    @property
    def operands(self) -> tuple[Parameter, ...]:
        """The inputs of the operation `rounding()`."""
        return (self.weight,)

    def rounding(self) -> Op:
        """Return a new operation that rounds the weights to their grid, with a straight-through
        gradient.
        """
        return FakeQuantize(self.grid, self.spec.straight_through, f"{self.name}.weight")

    def rounded(self) -> Tensor:
        """Return the weights rounded to their grid (N, K), connected to the master weights."""
        return self.rounding().apply(*self.operands)

    def encode(self) -> tuple[Array, Scales]:
        """Return the codes int8 (N, K) and scales of the rounded weights, as a file stores them."""
        return self.grid.encode(self.weight.data, f"{self.name}.weight")

    def pack(self) -> Array:
        """Return the rounded weights as packed rows, uint8 (N, bytes per row)."""
        return packing.pack(self.grid, *self.encode())

    def matmul(self, x: Tensor) -> Tensor:
        """x (..., K) -> x Wᵀ (..., N), with both rounded."""
        return FakeQuantizedMatMul(self.rounding, self.activations).apply(x, *self.operands)

    def matmul_rows(self, x: Tensor, rows: Array) -> Tensor:
        rows = array_module(self.weight.data).asarray(rows)
        scale_rows = self.grid.scales_shape(*self.shape)[0]
        by_row = scale_rows == self.shape[0] and len(self.operands) == 1

        def rounding() -> Op:
            return FakeQuantizedRows(rows, self.rounding(), by_row)

        return FakeQuantizedMatMul(rounding, self.activations).apply(x, *self.operands)

    def select(self, rows: Array) -> Matrix:
        raise TypeError(f"a {type(self).__name__} cannot be decoded with: convert the model first")

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape

    @property
    def stored(self) -> Array:
        return self.weight.data

    def prepare(
        self, kernel: ModuleType, first: int = 0, last: int | None = None
    ) -> PreparedMatrix:
        raise TypeError(f"a {type(self).__name__} cannot be decoded with: convert the model first")

    def is_exact_on(self, kernel: ModuleType) -> bool:
        return False

    def stays_packed_on(self, kernel: ModuleType) -> bool:
        return False


class FakeQuantizedLinear(FakeQuantizedMatrix):
    """A `Linear` that trains for its packed form: (..., K) -> (..., N)."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.matmul(x)


class LearnedLinear(FakeQuantizedLinear):
    """A `Linear` that trains together with the steps of its groups (learned.py).

    log_steps: (groups,), the logarithm of the factor on each group's step. offsets: (groups,), how
    far the levels are moved, in steps of the grid, or None.
    """

    def __init__(
        self,
        weight: Parameter,
        grid: Grid,
        spec: QuantizationSpec,
        name: str,
        log_steps: Parameter,
        offsets: Parameter | None,
    ) -> None:
        super().__init__(weight, grid, spec, name)
        self.log_steps, self.offsets = log_steps, offsets

    @property
    def operands(self) -> tuple[Parameter, ...]:
        learned = (self.log_steps,) if self.offsets is None else (self.log_steps, self.offsets)
        return (self.weight, *learned)

    def rounding(self) -> Op:
        bound = self.spec.scales == "learned-bound"
        return FakeQuantizeLearned(self.grid, f"{self.name}.weight", bound)

    def encode(self) -> tuple[Array, Scales]:
        weight, *learned = (parameter.data for parameter in self.operands)
        return encode_learned(self.grid, weight, *learned, name=f"{self.name}.weight")


class LinearFromStart(FakeQuantizedLinear):
    """A `Linear` that trains from the codes and steps of a packed model (start_steps.py).

    log_steps: (groups,), the logarithm of the factor on each start step. start_steps: (groups,).
    """

    def __init__(
        self,
        weight: Parameter,
        grid: Grid,
        spec: QuantizationSpec,
        name: str,
        log_steps: Parameter,
        start_steps: Parameter,
    ) -> None:
        super().__init__(weight, grid, spec, name)
        self.log_steps, self.start_steps = log_steps, start_steps

    @property
    def operands(self) -> tuple[Parameter, ...]:
        return self.weight, self.log_steps

    def rounding(self) -> Op:
        return FakeQuantizeFromStart(self.grid, self.start_steps.data, f"{self.name}.weight")

    def encode(self) -> tuple[Array, Scales]:
        arrays = self.weight.data, self.start_steps.data, self.log_steps.data
        return encode_from_start(self.grid, *arrays, f"{self.name}.weight")


class FakeQuantizedEmbedding(FakeQuantizedMatrix):
    """An `Embedding` that trains for its packed form. The lookup and the tied output use the same
    rounded table.

    start_steps, start_minima: (groups,), the scales of a packed table (start_steps.py), all zeros
    if the grid's own rule chooses the scales; or None.
    """

    def __init__(
        self,
        weight: Parameter,
        grid: Grid,
        spec: QuantizationSpec,
        name: str,
        start_steps: Parameter | None = None,
        start_minima: Parameter | None = None,
    ) -> None:
        super().__init__(weight, grid, spec, name)
        self.start_steps, self.start_minima = start_steps, start_minima

    def pack(self) -> Array:
        return packing.quantize(self.grid, self.weight.data, f"{self.name}.weight")

    def __call__(self, tokens: Array) -> Tensor:
        return FakeQuantizedLookup(tokens, self.rounding).apply(self.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """The table as a tied output: (..., K) -> (..., N)."""
        return self.matmul(hidden)


class FrozenEmbedding(FakeQuantizedEmbedding):
    """A token table that is rounded once, because it does not learn."""

    def __init__(
        self,
        weight: Parameter,
        grid: Grid,
        spec: QuantizationSpec,
        name: str,
        start_steps: Parameter | None = None,
        start_minima: Parameter | None = None,
    ) -> None:
        super().__init__(weight, grid, spec, name, start_steps, start_minima)
        if self.has_scales:
            self.values = grid.decode(*self.encode()).astype(weight.dtype, copy=False)  # (N, K)
        else:
            self.values = grid.fake_quantize(weight.data, f"{name}.weight")

    @property
    def has_scales(self) -> bool:
        """Whether the table has the scales of a packed one."""
        return self.start_steps is not None and bool(self.start_steps.data.any())

    def rounded(self) -> Tensor:
        return Tensor(self.values)

    def encode(self) -> tuple[Array, Scales]:
        if not self.has_scales:
            return super().encode()
        given = self.start_steps, self.start_minima
        scales = [parameter.data for parameter in given if parameter is not None]
        return encode_table(self.grid, self.weight.data, scales)

    def pack(self) -> Array:
        return packing.pack(self.grid, *self.encode()) if self.has_scales else super().pack()

    def __call__(self, tokens: Array) -> Tensor:
        return Tensor(self.values[tokens])

    def matmul(self, x: Tensor) -> Tensor:
        return RoundedMatMul(self.values, self.activations).apply(x)

    def matmul_rows(self, x: Tensor, rows: Array) -> Tensor:
        rows = array_module(self.values).asarray(rows)
        return RoundedMatMul(self.values[rows], self.activations).apply(x)
