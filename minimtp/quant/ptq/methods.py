"""Quantization after training: round the weights of a finished model without training it again.

    rtn          round to nearest: each group by the grid's own rule. What everything cleverer has to beat.
    hqq          better scales from the weights alone                                              (hqq.py)
    importance   better scales for the inputs that the text brings                                 (importance.py)
    awq          columns scaled to suit their inputs, then as `importance`                         (awq.py)
    gptq         as `importance`, then every error made up for by the columns still to come        (gptq.py)

All use the same grids, the same packing and the same modules as quantization-aware training; the only difference is that the
weights never had a chance to adapt. Token tables are rounded to nearest by every method: their grid is fine.

The products are rounded in the order in which the model uses them. GPTQ takes its statistics anew for each, with those before
it already rounded, so that it makes up for their errors too.
"""

from collections.abc import Callable, Sequence

from minimtp.backend import Array, array_module
from minimtp.engine.module import Module, replicate
from minimtp.errors import UserError
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.registry import F16
from minimtp.quant.ptq.awq import scale_columns
from minimtp.quant.ptq.calibration import CalibratedLinear, calibrated, collect
from minimtp.quant.ptq.gptq import gptq
from minimtp.quant.ptq.hqq import hqq
from minimtp.quant.ptq.importance import search_scales
from minimtp.quant.qat.modules import QuantizationSpec, convert, prepare

METHODS = ("rtn", "hqq", "importance", "awq", "gptq")
METHODS_WITH_TEXT = ("importance", "awq", "gptq")


def quantize_after_training(
    model: Module,
    spec: QuantizationSpec,
    method: str = "rtn",
    batches: Sequence[Array] = (),
    progress: Callable[[str], None] = lambda name: None,
) -> Module:
    """A packed model with the full-precision model's weights rounded; the given model is left as it is.

    batches: calibration text, each (B, T + 1 + K) tokens, for METHODS_WITH_TEXT. progress: told each product that is done.
    Raises UserError for an unknown method or one without its text, and what `prepare` and `convert` raise.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}: use {', '.join(METHODS)}")
    if method in METHODS_WITH_TEXT and not batches:
        raise UserError(
            f"method {method} needs calibration text: give some, or use method {' or '.join(_WITHOUT_TEXT)}"
        )
    copy = prepare(_copy(model), spec, linear=CalibratedLinear)
    products = calibrated(copy)
    if method != "rtn" and any(product.grid is F16 for product in products.values()):
        raise UserError(f"{F16.name} has no scales for {method} to choose: use method rtn with it")
    if method == "awq":
        collect(copy, products.values(), batches)
        scale_columns(copy)
    if method in ("importance", "awq"):
        collect(copy, products.values(), batches)
    for name, product in products.items():
        if method == "gptq":
            collect(copy, [product], batches)
        product.settle(*_round(product, method))
        product.statistics = None
        progress(name)
    return convert(copy)


def round_to_nearest(model: Module, spec: QuantizationSpec) -> Module:
    """`quantize_after_training` by the method rtn."""
    return quantize_after_training(model, spec)


_WITHOUT_TEXT = [method for method in METHODS if method not in METHODS_WITH_TEXT]


def _round(product: CalibratedLinear, method: str) -> tuple[Array, Scales]:
    grid, weight, name, statistics = (
        product.grid,
        product.weight.data,
        f"{product.name}.weight",
        product.statistics,
    )
    if method == "hqq":
        return hqq(grid, weight, name)
    if method == "rtn":
        return grid.encode(weight, name)
    beforehand = search_scales(grid, weight, statistics.importance, name)
    if method != "gptq":
        return beforehand
    return gptq(
        grid, weight, statistics.second_moment, name, beforehand=beforehand, largest_first=True
    )


def _copy(model: Module) -> Module:
    copy = replicate(model)
    for parameter in copy.parameters():
        parameter.data = array_module(parameter.data).array(parameter.data)
    return copy
