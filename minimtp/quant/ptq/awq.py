"""AWQ, activation-aware weight quantization: make the important weights easier to round, without
changing the model.

A column of weights that meets large inputs matters more than others, so its share of the rounding
error should be smaller. Multiplied by s_j > 1, the column has finer steps relative to its size. If
its input is divided by s_j, the product stays the same:

    W x = (W diag(s)) (diag(1/s) x),  s_j = E|x_j|^r, normalized so that sqrt(max s * min s) = 1

(Lin et al. 2023, arXiv 2306.00978). Twenty exponents r between 0 (no scaling) and 1 are tried. The
best one has the smallest error of the outputs, E |(Q(W diag(s)) diag(1/s) - W) x|². The division
takes no time in decoding, because it is folded into the module that produces the inputs:

    a norm                     its weight is divided
    the values of attention    rows of the fused projection. With fewer value than query heads,
                               a row produces inputs at several places, which then share one s
    the `up` half of a SwiGLU  rows of gate_up, because silu(gate) * up is linear in up

The matrix that joins a head's inputs with the trunk's final state stays as it is: others read that
state, too. The inputs' magnitudes are averages over the calibration text. The scaled model computes
the same function. Only the rounding differs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from minimtp.backend import Array, array_module
from minimtp.engine.module import Module
from minimtp.engine.tensor import Parameter
from minimtp.model.heads import (
    Eagle3Heads,
    SequentialHead,
    TokenConditionedHead,
    TokenConditionedHeadWithFeedForward,
)
from minimtp.model.layers import Linear, RMSNorm
from minimtp.model.transformer import Block, FeedForward
from minimtp.quant.grids import Grid
from minimtp.quant.ptq.calibration import CalibratedLinear, Statistics
from minimtp.quant.ptq.gptq import output_error

EXPONENTS = tuple(i / 20 for i in range(20))
# Relative to the largest magnitude. It limits the scaling of inputs that are almost always zero.
MIN_MAGNITUDE = 1e-4


@dataclass(frozen=True)
class Fold:
    """A linear layer, and how to divide its inputs when its columns are multiplied.

    divide(s) divides the producer of the inputs. tie(magnitudes) makes magnitudes equal that must
    share a scale: (K,) -> (K,).
    """

    linear: CalibratedLinear
    divide: Callable[[Array], None]
    tie: Callable[[Array], Array] = lambda magnitudes: magnitudes


def scale_columns(model: Module) -> None:
    """Scale every linear layer whose inputs can be divided.

    model: prepared with CalibratedLinear, with statistics, nothing rounded yet. Its parameters get
    new arrays, because another model may share the old ones. The statistics are removed, because
    the inputs have changed afterwards.
    """
    for fold in folds(model):
        linear, weight = fold.linear, fold.linear.weight
        scales = column_scales(linear.grid, weight.data, linear.statistics, fold.tie)
        fold.divide(scales)
        weight.data = (weight.data * scales).astype(weight.dtype)
    for fold in folds(model):
        fold.linear.statistics = None


def column_scales(
    grid: Grid, weight: Array, statistics: Statistics, tie: Callable[[Array], Array]
) -> Array:
    """Return the s (K,) float64 for which rounding weight (N, K) to the grid changes the outputs
    least.
    """
    xp = array_module(weight)
    moment, magnitude = statistics.second_moment, tie(statistics.magnitude)
    magnitude = xp.maximum(magnitude, MIN_MAGNITUDE * max(float(magnitude.max()), 1e-30))
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
    """Yield every linear layer that can be scaled. A layer fed by another linear layer comes before
    that one.
    """
    for _, module in model.named_modules():
        if isinstance(module, Block):
            yield from _of_block(module)
        elif isinstance(module, SequentialHead):
            norms = module.state_norm.weight, module.token_norm.weight
            yield Fold(module.join, _divide_vectors(*norms))
        elif isinstance(module, TokenConditionedHead):
            norms = module.state_norm.weight, module.token_norm.weight
            yield Fold(module.gate_candidate, _divide_vectors(*norms))
            if isinstance(module, TokenConditionedHeadWithFeedForward):
                yield from _of_feed_forward(module.feed_forward, module.feed_forward_norm)
        elif isinstance(module, Eagle3Heads):
            yield from _of_eagle3(module)


def _of_block(block: Block) -> Iterator[Fold]:
    attention = block.attention
    heads = attention.num_heads, attention.num_kv_heads
    values = [attention.qkv.weight]
    if attention.qkv_bias is not None:
        values.append(attention.qkv_bias)
    yield _of_attention_output(attention.output, values, *heads)
    yield Fold(attention.qkv, _divide_vectors(block.attention_norm.weight))
    yield from _of_feed_forward(block.feed_forward, block.feed_forward_norm)


def _of_feed_forward(feed_forward: FeedForward, norm: RMSNorm) -> Iterator[Fold]:
    yield Fold(feed_forward.down, _divide_last_rows(feed_forward.gate_up.weight))
    yield Fold(feed_forward.gate_up, _divide_vectors(norm.weight))


def _of_eagle3(heads: Eagle3Heads) -> Iterator[Fold]:
    block, config = heads.block, heads.config
    numbers = config.num_heads, config.num_kv_heads
    yield _of_attention_output(block.attention_output, [block.qkv.weight], *numbers)
    if not block.norm_before_residual:  # else the residual reads this norm, too
        yield Fold(block.qkv, _divide_vectors(block.token_norm.weight, block.state_norm.weight))
    yield from _of_feed_forward(block.feed_forward, block.feed_forward_norm)
    if heads.fc_norm is not None:
        yield Fold(heads.fc, _divide_vectors(heads.fc_norm.weight))
    if heads.output is not None:
        yield Fold(heads.output, _divide_vectors(heads.norm.weight))


def _of_attention_output(
    output: Linear, qkv: Sequence[Parameter], num_heads: int, kv_heads: int
) -> Fold:
    """Return how to scale the inputs of attention's output: by the rows of the values.

    qkv: the weight ((H + 2G) C, D), and the bias if there is one. The values are the last rows.
    """
    head_dim = output.weight.shape[1] // num_heads
    by_kv_head = (kv_heads, num_heads // kv_heads, head_dim)  # (G, H/G, C)

    def tie(magnitudes: Array) -> Array:  # (H*C,) -> (H*C,)
        shared = magnitudes.reshape(by_kv_head).mean(axis=1, keepdims=True)
        return array_module(magnitudes).broadcast_to(shared, by_kv_head).reshape(-1)

    divide_values = _divide_last_rows(*qkv)

    def divide(scales: Array) -> None:  # (H*C,), equal for the query heads that share a value head
        divide_values(scales.reshape(by_kv_head)[:, 0].reshape(-1))

    return Fold(output, divide, tie)


def _divide_vectors(*vectors: Parameter) -> Callable[[Array], None]:
    """Return a function that divides vectors, which are concatenated in the inputs of the linear
    layer.
    """

    def divide(scales: Array) -> None:
        start = 0
        for vector in vectors:
            stop = start + vector.data.size
            vector.data = (vector.data / scales[start:stop]).astype(vector.dtype)
            start = stop

    return divide


def _divide_last_rows(*parameters: Parameter) -> Callable[[Array], None]:
    """Return a function that divides the last rows of matrices, and the last numbers of vectors."""

    def divide(scales: Array) -> None:
        for parameter in parameters:
            data = parameter.data.copy()
            data[-len(scales) :] /= scales[:, None] if data.ndim == 2 else scales
            parameter.data = data

    return divide
