"""What the products of a model meet: statistics of their inputs over calibration text.

Rounding that looks at more than the weights asks two things of a product's inputs x, both averages over tokens:

    second moment    E[x xᵀ], (K, K)       what an error of the weights costs at the outputs (GPTQ);
                                            its diagonal is the importance
    magnitude        E|x_j|, (K,)          which inputs are large (AWQ)

They are collected by putting a `CalibratedLinear` wherever a product was. It multiplies by the full-precision weights until it
is told what they are rounded to, and sees its inputs rounded as the deployed product will: so the statistics of a layer can be
taken with the layers before it already rounded, errors and all.
"""

from collections.abc import Iterable

from minimtp.backend import Array, array_module
from minimtp.engine.fused import LinearMatMul
from minimtp.engine.module import Module
from minimtp.engine.tensor import Tensor
from minimtp.model.loss import evaluate_losses
from minimtp.quant.grids.base import Scales
from minimtp.quant.qat.fake_quantize import round_activations
from minimtp.quant.qat.modules import FakeQuantizedLinear


class Statistics:
    """Running means over rows of inputs; in float64, so that they hardly depend on how the rows come in portions."""

    def __init__(self) -> None:
        self.rows = 0
        self._products: Array = 0.0  # the sum of x xᵀ
        self._magnitudes: Array = 0.0  # the sum of |x|

    def add(self, rows: Array) -> None:
        """rows (M, K): M more inputs."""
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
    """A product on its way to being rounded: full precision, until `settle` says which codes and scales it gets."""

    statistics: Statistics | None = None  # collected while there is one
    chosen: tuple[Array, Scales] | None = None

    def settle(self, codes: Array, scales: Scales) -> None:
        """From now on multiply by what these stand for."""
        self.chosen = codes, scales
        self._values = self.grid.decode(codes, scales).astype(self.weight.dtype, copy=False)

    def rounded(self) -> Tensor:
        return self.weight if self.chosen is None else Tensor(self._values)

    def encode(self) -> tuple[Array, Scales]:
        return super().encode() if self.chosen is None else self.chosen

    def product(self, x: Tensor) -> Tensor:
        seen = round_activations(x.data, self.activations)
        if self.statistics is not None:
            self.statistics.add(seen.reshape(-1, seen.shape[-1]))
        return LinearMatMul().apply(Tensor(seen), self.rounded())


def collect(model: Module, products: Iterable[CalibratedLinear], batches: Iterable[Array]) -> None:
    """Give each of the products fresh statistics of its inputs over the batches, each (B, T + 1 + K) tokens."""
    products = list(products)
    for product in products:
        product.statistics = Statistics()
    for tokens in batches:
        evaluate_losses(model, tokens)
    kept = [product.statistics for product in products]
    for product, statistics in zip(products, kept, strict=True):
        product.statistics = statistics


def calibrated(model: Module) -> dict[str, CalibratedLinear]:
    """The model's products by name, in the order in which they are used."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, CalibratedLinear)
    }
