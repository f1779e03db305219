"""Activation-aware scaling: make the weights that matter easier to round, without changing what the model computes.

A column of weights that meets large inputs matters more than others, and its share of the rounding error should be smaller.
Multiplied by s_j > 1 it gets finer steps for its size; if its input is divided by s_j, the product stays what it was:

    W x = (W diag(s)) (diag(1/s) x),       s_j = E|x_j|^r, normalized so that sqrt(max s * min s) = 1

(Lin et al. 2023, arXiv 2306.00978). The exponent r between 0 (nothing) and 1 is the one of twenty with the smallest error of
the outputs, E |(Q(W diag(s)) diag(1/s) - W) x|². The division costs nothing: it is folded into what makes the inputs,

    a norm in front                 its weight is divided
    the values of attention         rows of the fused projection; with fewer value heads than query heads a row makes inputs
                                    at several places, which then share one s
    the `up` half of a SwiGLU       rows of gate_up, because silu(gate) * up is linear in up

The inputs' magnitudes are those of the whole text, so a model scaled so is the same model: only rounding tells them apart.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from minimtp.backend import Array, array_module
from minimtp.engine.module import Module
from minimtp.engine.tensor import Parameter
from minimtp.model.heads import SequentialHead, TokenConditionedHead
from minimtp.model.transformer import Block
from minimtp.quant.grids.registry import Grid
from minimtp.quant.ptq.calibration import CalibratedLinear, Statistics
from minimtp.quant.ptq.gptq import output_error

EXPONENTS = tuple(i / 20 for i in range(20))
SMALLEST_MAGNITUDE = (
    1e-4  # of an input's, relative to the largest: an input that hardly ever fires is not blown up
)


@dataclass(frozen=True)
class Fold:
    """A product, and what has to be divided when its columns are multiplied.

    divide(s) divides; tie(magnitudes) makes what must share a scale equal: (K,) -> (K,).
    """

    product: CalibratedLinear
    divide: Callable[[Array], None]
    tie: Callable[[Array], Array] = lambda magnitudes: magnitudes


def scale_columns(model: Module) -> None:
    """Scale every product of the model that something in front of it can make up for, in place.

    model: prepared with CalibratedLinear, statistics collected, nothing rounded yet. The statistics are used up: the inputs are
    others afterwards.
    """
    for fold in folds(model):
        product, weight = fold.product, fold.product.weight
        scales = column_scales(product.grid, weight.data, product.statistics, fold.tie)
        fold.divide(scales)
        weight.data[...] = weight.data * scales
    for fold in folds(model):
        fold.product.statistics = None


def column_scales(
    grid: Grid, weight: Array, statistics: Statistics, tie: Callable[[Array], Array]
) -> Array:
    """The s (K,) float64 that costs the outputs of weight (N, K) the least error when rounded to the grid."""
    xp = array_module(weight)
    moment, magnitude = statistics.second_moment, tie(statistics.magnitude)
    magnitude = xp.maximum(magnitude, SMALLEST_MAGNITUDE * max(float(magnitude.max()), 1e-30))
    best, best_error = xp.ones(len(magnitude)), float("inf")
    for exponent in EXPONENTS:
        scales = magnitude**exponent
        scales = scales / xp.sqrt(scales.max() * scales.min())
        scaled = (weight * scales).astype(weight.dtype)
        error = output_error(grid.fake_quantize(scaled) / scales - weight, moment)
        if error < best_error:
            best, best_error = scales, error
    return best


def folds(model: Module) -> Iterator[Fold]:
    """Every product that can be scaled. One that is fed by another product comes before that one's own turn."""
    for _, module in model.named_modules():
        if isinstance(module, Block):
            yield from _of_block(module)
        elif isinstance(module, SequentialHead):
            yield Fold(module.join, _dividing(module.state_norm.weight, module.token_norm.weight))
        elif isinstance(module, TokenConditionedHead):
            yield Fold(
                module.gate_candidate, _dividing(module.state_norm.weight, module.token_norm.weight)
            )


def _of_block(block: Block) -> Iterator[Fold]:
    attention, feed_forward = block.attention, block.feed_forward
    yield Fold(feed_forward.down, _dividing_rows(feed_forward.gate_up.weight))
    groups, heads = attention.num_kv_heads, attention.heads
    channels = attention.output.weight.shape[1] // heads

    def by_value_head(numbers: Array) -> Array:  # (H*C,) -> (G, H/G, C)
        return numbers.reshape(groups, heads // groups, channels)

    def tie(magnitudes: Array) -> Array:
        shared = by_value_head(magnitudes).mean(axis=1, keepdims=True)
        return (
            array_module(magnitudes)
            .broadcast_to(shared, (groups, heads // groups, channels))
            .reshape(-1)
        )

    divide = _dividing_rows(attention.qkv.weight)
    yield Fold(
        attention.output, lambda scales: divide(by_value_head(scales)[:, 0].reshape(-1)), tie
    )
    yield Fold(attention.qkv, _dividing(block.attention_norm.weight))
    yield Fold(feed_forward.gate_up, _dividing(block.feed_forward_norm.weight))


def _dividing(*vectors: Parameter) -> Callable[[Array], None]:
    """Divides vectors that lie side by side in the product's inputs."""

    def divide(scales: Array) -> None:
        start = 0
        for vector in vectors:
            stop = start + vector.data.size
            vector.data[...] = vector.data / scales[start:stop]
            start = stop

    return divide


def _dividing_rows(matrix: Parameter) -> Callable[[Array], None]:
    """Divides the last rows of a matrix."""

    def divide(scales: Array) -> None:
        rows = matrix.data[-len(scales) :]
        rows[...] = rows / scales[:, None]

    return divide
