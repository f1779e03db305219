"""Calibration: statistics of the inputs of every linear layer, over calibration text.

Rounding methods that consider more than the weights need two averages over the inputs x of a linear
layer:

    second moment  E[x xᵀ], (K, K)  how much an error of the weights changes the outputs (GPTQ);
                                     its diagonal is the importance
    magnitude      E|x_j|, (K,)     which inputs are large (AWQ)

To collect them, every linear layer is replaced by a `CalibratedLinear`. It multiplies by
full-precision weights until it gets rounded ones, and rounds its inputs as the deployed layer will.
So the earlier layers can be rounded first, and the statistics of a layer then include their errors.
"""

from collections.abc import Iterable

from minimtp.backend import Array, array_module
from minimtp.engine.fused import LinearMatMul
from minimtp.engine.module import Module
from minimtp.engine.tensor import Tensor
from minimtp.model.loss import evaluate_losses
from minimtp.quant.activations import round_activations
from minimtp.quant.grids.base import Scales
from minimtp.quant.qat.modules import FakeQuantizedLinear


class Statistics:
    """Running means over rows of inputs. They are float64, so that they hardly depend on the split
    of the rows into batches.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._products: Array = 0.0  # (K, K), the sum of x xᵀ
        self._magnitudes: Array = 0.0  # (K,), the sum of |x|

    def add(self, rows: Array) -> None:
        """Add M inputs, rows (M, K)."""
        precise = rows.astype("float64")
        self.rows += len(rows)
        self._products = self._products + precise.T @ precise
        self._magnitudes = self._magnitudes + array_module(rows).abs(precise).sum(axis=0)

    @property
    def second_moment(self) -> Array:
        """E[x xᵀ] (K, K)."""
        return self._products / self.rows

    @property
    def importance(self) -> Array:
        """E[x_j²] (K,)."""
        return array_module(self._products).diagonal(self._products) / self.rows

    @property
    def magnitude(self) -> Array:
        """E|x_j| (K,)."""
        return self._magnitudes / self.rows


class CalibratedLinear(FakeQuantizedLinear):
    """A linear layer that is about to be rounded: full precision until `settle` sets its codes and
    scales.
    """

    statistics: Statistics | None = None  # None: not collected
    chosen: tuple[Array, Scales] | None = None

    def settle(self, codes: Array, scales: Scales) -> None:
        """Multiply by the values of these codes and scales from now on."""
        self.chosen = codes, scales
        self._values = self.grid.decode(codes, scales).astype(self.weight.dtype, copy=False)

    def rounded(self) -> Tensor:
        return self.weight if self.chosen is None else Tensor(self._values)

    def encode(self) -> tuple[Array, Scales]:
        return super().encode() if self.chosen is None else self.chosen

    def matmul(self, x: Tensor) -> Tensor:
        inputs = round_activations(x.data, self.activations)  # (..., K)
        if self.statistics is not None:
            self.statistics.add(inputs.reshape(-1, inputs.shape[-1]))
        return LinearMatMul().apply(Tensor(inputs), self.rounded())


def collect(model: Module, layers: Iterable[CalibratedLinear], batches: Iterable[Array]) -> None:
    """Give each of the layers new statistics of its inputs over the batches, each (B, T + 1 + K)
    tokens.
    """
    for layer in layers:
        layer.statistics = Statistics()
    for tokens in batches:
        evaluate_losses(model, tokens)


def calibrated(model: Module) -> dict[str, CalibratedLinear]:
    """Return the model's linear layers by name, in the order in which they are used."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, CalibratedLinear)
    }
