"""Post-training quantization: round the weights of a finished model without training it again.

    rtn         round to nearest: each group by the grid's own rule. The baseline for the others
    hqq         better scales from the weights alone (hqq.py)
    importance  better scales for the inputs that the text produces (grids/scale_search.py)
    awq         columns scaled to suit their inputs, then as `importance` (awq.py)
    gptq        as `importance`, then later columns compensate for every error (gptq.py)

All methods use the same grids, packing and modules as quantization-aware training. The only
difference is that the weights were not trained to adapt. Token tables are rounded to nearest,
because their grid usually has many levels (q8_0). On a grid with few levels, gptq rounds a tied
table as what it is, the output layer: with the scales of the grid's own rule, because a row that
is looked up as an embedding must keep its extremes. On SmolLM2 with a table in q5_1, this reduced
the divergence from 0.010 to 0.004 nats on code and from 0.012 to 0.004 on prose; searched scales
were worse than the grid's own rule.

Linear layers are rounded in the order in which the model uses them, part by part (walk.py), and
packed at once. GPTQ collects new statistics for each, with the layers before it already rounded, so
that it compensates for their errors, too. The other methods take statistics of the full-precision
model.

**Memory.** The given model, the packed one, the states of the calibration text between two parts
(4 bytes times the hidden size for each token), and the arrays of one batch and one part.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.engine.module import Module, replicate
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError, shown
from minimtp.machine import available_cores
from minimtp.model.transformer import LanguageModel
from minimtp.quant import packing
from minimtp.quant.activations import round_activations
from minimtp.quant.grids import F16, Grid
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.ptq.awq import scale_columns
from minimtp.quant.ptq.calibration import CalibratedLinear, Statistics, calibrated
from minimtp.quant.ptq.gptq import gptq
from minimtp.quant.ptq.hqq import hqq
from minimtp.quant.ptq.walk import Part, Walk
from minimtp.quant.qat.convert import convert, pack_tables
from minimtp.quant.qat.modules import FakeQuantizedEmbedding
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec

METHODS = ("rtn", "hqq", "importance", "awq", "gptq")
METHODS_WITH_TEXT = ("importance", "awq", "gptq")
_WITHOUT_TEXT = [method for method in METHODS if method not in METHODS_WITH_TEXT]
MIN_ROWS = 128  # of a matrix per thread
MANY_LEVELS = 128  # of a token table's grid: rounding to nearest is good enough
ROWS_AT_ONCE = 4096  # of a token table


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
    copy = prepare_qat(replicate(model), spec, linear=CalibratedLinear)
    layers = calibrated(copy)
    if method != "rtn" and any(layer.grid is F16 for layer in layers.values()):
        raise UserError(f"{F16.name} has no scales for {method} to choose: use method rtn with it")
    names = {id(layer): name for name, layer in layers.items()}
    if method == "gptq" and model.trunk.output is None:
        pack_tables(copy, partial(_packed_output, moment=_MomentOfStates(model, batches)))
    else:
        pack_tables(copy)
    for layer in _rounded(copy, method, batches):
        layer.release()
        progress(names[id(layer)])
    return convert(copy)


def _rounded(model: Module, method: str, batches: Sequence[Array]) -> Iterator[CalibratedLinear]:
    """Round the layers in place. Yield each when no other layer needs its values any more."""
    if method not in METHODS_WITH_TEXT:
        for layer in calibrated(model).values():
            _settle(layer, method)
            yield layer
        return
    walk = Walk(model, batches)
    for part in walk.parts():
        if method == "gptq":
            _round_one_by_one(walk, part)
        else:
            _round_together(walk, part, method)
        yield from part.layers


def _round_one_by_one(walk: Walk, part: Part) -> None:
    """Round each layer with statistics that include the rounding of the layers before it."""
    for step in part.steps:
        for layer in step.layers:
            walk.collect(step, [layer])
            _settle(layer, "gptq")
        if not step.repeats:
            walk.advance(step)


def _round_together(walk: Walk, part: Part, method: str) -> None:
    """Round the layers of a part with statistics of the full-precision model."""
    if method == "awq":
        before = list(walk.states)
        for step in part.steps:
            walk.collect(step, step.layers, advance=True)
        walk.states = before
        scale_columns(part.module)
    for step in part.steps:
        walk.collect(step, step.layers, with_moment=False, advance=True)
    for layer in part.layers:
        _settle(layer, method)


class _MomentOfStates:
    """The second moment of the final states of a full-precision model, computed when needed."""

    def __init__(self, model: LanguageModel, batches: Sequence[Array]) -> None:
        self.model, self.batches = model, batches

    def rounded_to(self, activations: str) -> Array:
        """Return E[x xᵀ] (D, D) of the states after the final norm, rounded as inputs of the
        output.
        """
        depth = self.model.depth

        def statistics_of(tokens: Array) -> Statistics:
            with no_grad():
                states = self.model.hidden(tokens[:, : tokens.shape[1] - 1 - depth]).data
            found = Statistics()
            found.add(round_activations(states.reshape(-1, states.shape[-1]), activations))
            return found

        total = Statistics()
        threads = available_cores() if array_module(*self.batches) is np else 1
        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(statistics_of, self.batches):
                total.merge(found)
        return total.second_moment


def _packed_output(table: FakeQuantizedEmbedding, moment: _MomentOfStates) -> Array:
    """Return the packed rows of a tied table. They are rounded a slice at a time, because GPTQ
    needs several arrays of float64.
    """
    grid, weight, name = table.grid, table.weight.data, f"{table.name}.weight"
    rows, columns = weight.shape
    own_scales = grid.scales_shape(rows, columns)[0] == rows
    if grid.max_code - grid.min_code >= MANY_LEVELS or not own_scales:
        return table.pack()
    second_moment = moment.rounded_to(table.activations)

    def packed(start: int) -> Array:
        part = weight[start : start + ROWS_AT_ONCE]
        chosen = grid.encode(part, name)
        return packing.pack(
            grid, *gptq(grid, part, second_moment, name, beforehand=chosen, largest_first=True)
        )

    xp = array_module(weight)
    threads = available_cores() if xp is np else 1
    with ThreadPoolExecutor(threads) as pool:
        return xp.concatenate(list(pool.map(packed, range(0, rows, ROWS_AT_ONCE))))


def round_to_nearest(model: Module, spec: QuantizationSpec) -> Module:
    """Return `quantize_after_training` with the method rtn."""
    return quantize_after_training(model, spec)


def _settle(layer: CalibratedLinear, method: str) -> None:
    layer.settle(*_round(layer, method))
    layer.statistics = None


def _round(layer: CalibratedLinear, method: str) -> tuple[Array, Scales]:
    grid, weight, name = layer.grid, layer.weight.data, f"{layer.name}.weight"
    statistics = layer.statistics
    if method == "hqq":
        return _by_rows(grid, weight, lambda rows: hqq(grid, rows, name))
    if method == "rtn":
        return grid.encode(weight, name)
    importance = statistics.importance
    beforehand = _by_rows(grid, weight, lambda rows: search_scales(grid, rows, importance, name))
    if method != "gptq":
        return beforehand
    return gptq(
        grid, weight, statistics.second_moment, name, beforehand=beforehand, largest_first=True
    )


def _by_rows(
    grid: Grid, weight: Array, function: Callable[[Array], tuple[Array, Scales]]
) -> tuple[Array, Scales]:
    """Return function(weight), computed for a share of the rows per thread if they have their own
    scales.
    """
    xp, rows = array_module(weight), len(weight)
    threads = min(available_cores(), rows // MIN_ROWS) if xp is np else 1
    if threads < 2 or grid.scales_shape(*weight.shape)[0] != rows:
        return function(weight)
    with ThreadPoolExecutor(threads) as pool:
        codes, scales = zip(*pool.map(function, xp.array_split(weight, threads)), strict=True)
    if isinstance(scales[0], tuple):
        joined = type(scales[0])(*map(xp.concatenate, zip(*scales, strict=True)))
    else:
        joined = xp.concatenate(scales)
    return xp.concatenate(codes), joined
