"""Calibration: statistics of the inputs of every linear layer, over calibration text.

Rounding methods that consider more than the weights need averages over the inputs x of a linear
layer:

    second moment  E[x xᵀ], (K, K)  how much an error of the weights changes the outputs (GPTQ)
    importance     E[x_j²], (K,)     its diagonal
    magnitude      E|x_j|, (K,)      which inputs are large (AWQ)

To collect them, every linear layer is replaced by a `CalibratedLinear`. It multiplies by
full-precision weights until it gets rounded ones, and rounds its inputs as the deployed layer will.
So the earlier layers can be rounded first, and the statistics of a layer then include their errors.
walk.py runs the text through the model part by part.
"""

import threading
from collections.abc import Callable, Iterable

from minimtp.backend import Array, array_module
from minimtp.engine.fused import LinearMatMul
from minimtp.engine.module import Module
from minimtp.engine.tensor import Parameter, Tensor
from minimtp.model.loss import evaluate_losses
from minimtp.quant import packing
from minimtp.quant.activations import round_activations
from minimtp.quant.grids.base import Scales
from minimtp.quant.qat.modules import FakeQuantizedLinear

ROWS_AT_ONCE = 512  # inputs that are converted to float64 together


class Statistics:
    """Running means over rows of inputs. They are float64, so that they hardly depend on the split
    of the rows into batches.

    with_moment: whether the second moment is collected. It is the largest array of calibration.
    """

    def __init__(self, with_moment: bool = True) -> None:
        self.with_moment = with_moment
        self.rows = 0
        self._products: Array | None = None  # the sum of x xᵀ (K, K), or of x² (K,)
        self._magnitudes: Array | None = None  # (K,), the sum of |x|

    def add(self, rows: Array) -> None:
        """Add M inputs, rows (M, K)."""
        xp, columns = array_module(rows), rows.shape[1]
        if not self.rows:
            self._products = xp.zeros((columns,) * (1 + self.with_moment))
            self._magnitudes = xp.zeros(columns)
        self.rows += len(rows)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            precise = rows[start : start + ROWS_AT_ONCE].astype("float64")
            if self.with_moment:
                self._products += precise.T @ precise
            else:
                self._products += (precise * precise).sum(axis=0)
            self._magnitudes += xp.abs(precise, out=precise).sum(axis=0)

    def merge(self, other: "Statistics") -> None:
        """Add the rows of another object."""
        if not self.rows:
            self._products, self._magnitudes = other._products, other._magnitudes
        else:
            self._products += other._products
            self._magnitudes += other._magnitudes
        self.rows += other.rows

    @property
    def second_moment(self) -> Array:
        """E[x xᵀ] (K, K)."""
        return self._products / self.rows

    @property
    def importance(self) -> Array:
        """E[x_j²] (K,)."""
        if not self.with_moment:
            return self._products / self.rows
        return array_module(self._products).diagonal(self._products) / self.rows

    @property
    def magnitude(self) -> Array:
        """E|x_j| (K,)."""
        return self._magnitudes / self.rows


class _Collection(threading.local):
    """What this thread collects: statistics by id(layer), and the layer after which it stops."""

    statistics: dict[int, Statistics] | None = None
    last: object = None


_collection = _Collection()


class Collected(Exception):  # noqa: N818  (not an error: it ends a pass that has what it needs)
    """The last layer has received its inputs."""


class CalibratedLinear(FakeQuantizedLinear):
    """A linear layer that is about to be rounded: full precision until `settle` sets its codes and
    scales.
    """

    statistics: Statistics | None = None
    chosen: tuple[Array, Scales] | None = None
    _values: Array | None = None  # the values of the chosen codes, once a pass has needed them
    _packed: Array | None = None

    def settle(self, codes: Array, scales: Scales) -> None:
        """Multiply by the values of these codes and scales from now on."""
        self.chosen, self._values = (codes, scales), None

    def release(self) -> None:
        """Keep only the packed rows. The layer is not used again before it is converted."""
        self._packed = packing.pack(self.grid, *self.encode())
        self.chosen = self._values = self.statistics = None
        xp = array_module(self.weight.data)
        nothing = xp.zeros((), self.weight.dtype)
        self.weight = Parameter(xp.broadcast_to(nothing, self.weight.shape))  # takes no memory

    def rounded(self) -> Tensor:
        if self.chosen is None:
            return self.weight
        if self._values is None:
            self._values = self.grid.decode(*self.chosen).astype(self.weight.dtype, copy=False)
        return Tensor(self._values)

    def encode(self) -> tuple[Array, Scales]:
        if self._packed is not None:
            return packing.unpack(self.grid, self._packed)
        return super().encode() if self.chosen is None else self.chosen

    def pack(self) -> Array:
        return super().pack() if self._packed is None else self._packed

    def matmul(self, x: Tensor) -> Tensor:
        inputs = round_activations(x.data, self.activations)  # (..., K)
        if _collection.statistics and id(self) in _collection.statistics:
            _collection.statistics[id(self)].add(inputs.reshape(-1, inputs.shape[-1]))
        if _collection.last is self:
            raise Collected
        return LinearMatMul().apply(Tensor(inputs), self.rounded())


def statistics_of(
    layers: Iterable[CalibratedLinear],
    run: Callable[[], None],
    *,
    with_moment: bool = True,
    last: CalibratedLinear | None = None,
) -> dict[int, Statistics]:
    """Return the statistics of the layers' inputs, by id(layer), while `run` runs in this thread.

    last: ends the run as soon as this layer has its inputs.
    """
    _collection.statistics = {id(layer): Statistics(with_moment) for layer in layers}
    _collection.last = last
    try:
        run()
    except Collected:
        pass
    finally:
        found, _collection.statistics, _collection.last = _collection.statistics, None, None
    return found


def collect(model: Module, layers: Iterable[CalibratedLinear], batches: Iterable[Array]) -> None:
    """Give each of the layers new statistics of its inputs over the batches, each (B, T + 1 + K)
    tokens.
    """
    layers = list(layers)

    def run() -> None:
        for tokens in batches:
            evaluate_losses(model, tokens)

    found = statistics_of(layers, run)
    for layer in layers:
        layer.statistics = found[id(layer)]


def calibrated(model: Module) -> dict[str, CalibratedLinear]:
    """Return the model's linear layers by name, in the order in which they are used."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, CalibratedLinear)
    }
