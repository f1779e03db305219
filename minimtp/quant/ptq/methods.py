"""Post-training quantization: round the weights of a finished model without training it again.

    rtn         round to nearest: each group by the grid's own rule. The baseline for the others
    hqq         better scales from the weights alone (hqq.py)
    importance  better scales for the inputs that the text produces (grids/scale_search.py)
    awq         columns scaled to suit their inputs, then as `importance` (awq.py)
    gptq        as `importance`, then later columns compensate for every error (gptq.py)

All methods use the same grids, packing and modules as quantization-aware training. The only
difference is that the weights were not trained to adapt. Every method rounds token tables to
nearest, because their grid has many levels.

Linear layers are rounded in the order in which the model uses them. GPTQ collects new statistics
for each, with the layers before it already rounded, so that it compensates for their errors, too.
"""

from collections.abc import Callable, Sequence

from minimtp.backend import Array, array_module
from minimtp.engine.module import Module, replicate
from minimtp.errors import UserError, shown
from minimtp.quant.grids import F16
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.ptq.awq import scale_columns
from minimtp.quant.ptq.calibration import CalibratedLinear, calibrated, collect
from minimtp.quant.ptq.gptq import gptq
from minimtp.quant.ptq.hqq import hqq
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec

METHODS = ("rtn", "hqq", "importance", "awq", "gptq")
METHODS_WITH_TEXT = ("importance", "awq", "gptq")


def quantize_after_training(
    model: Module,
    spec: QuantizationSpec,
    method: str = "rtn",
    batches: Sequence[Array] = (),
    progress: Callable[[str], None] = lambda name: None,
) -> Module:
    """Return a packed model with the rounded weights of a full-precision one, which is not changed.

    batches: calibration text for METHODS_WITH_TEXT, each (B, T + 1 + K) tokens. progress: called
    with the name of each layer that is done.
    Raises UserError if the method is unknown or needs text, and the errors of `prepare_qat` and
    `convert`.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {shown(method)!r}: use {', '.join(METHODS)}")
    if method in METHODS_WITH_TEXT and not batches:
        raise UserError(
            f"method {method} needs calibration text: give some, or use method "
            f"{' or '.join(_WITHOUT_TEXT)}"
        )
    copy = prepare_qat(_copy(model), spec, linear=CalibratedLinear)
    layers = calibrated(copy)
    if method != "rtn" and any(layer.grid is F16 for layer in layers.values()):
        raise UserError(f"{F16.name} has no scales for {method} to choose: use method rtn with it")
    if method == "awq":
        collect(copy, layers.values(), batches)
        scale_columns(copy)
    if method in ("importance", "awq"):
        collect(copy, layers.values(), batches)
    for name, layer in layers.items():
        if method == "gptq":
            collect(copy, [layer], batches)
        layer.settle(*_round(layer, method))
        layer.statistics = None
        progress(name)
    return convert(copy)


def round_to_nearest(model: Module, spec: QuantizationSpec) -> Module:
    """Return `quantize_after_training` with the method rtn."""
    return quantize_after_training(model, spec)


_WITHOUT_TEXT = [method for method in METHODS if method not in METHODS_WITH_TEXT]


def _round(layer: CalibratedLinear, method: str) -> tuple[Array, Scales]:
    grid, weight, name = layer.grid, layer.weight.data, f"{layer.name}.weight"
    statistics = layer.statistics
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
