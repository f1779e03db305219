"""Prepare a model for quantization-aware training: replace its matrices by fake-quantized ones."""

from minimtp.backend import Array, array_module
from minimtp.engine.module import Module, replace_modules
from minimtp.engine.tensor import Parameter
from minimtp.model.layers import Embedding, Linear
from minimtp.quant.grids import Grid
from minimtp.quant.grids.scales import step_and_minimum_of, step_of
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.quant.qat.kv_cache import with_cache
from minimtp.quant.qat.learned import first_log_steps, first_log_steps_and_offsets
from minimtp.quant.qat.modules import (
    FakeQuantizedEmbedding,
    FakeQuantizedLinear,
    FakeQuantizedMatrix,
    FrozenEmbedding,
    LearnedLinear,
    LinearFromStart,
)
from minimtp.quant.qat.spec import QuantizationSpec, grids_of, modules_in_heads
from minimtp.quant.qat.start_steps import require_single_step, scales_per_group


class LinearWithStepParameters(Linear):
    """A `Linear` with the parameters that `LearnedLinear` or `LinearFromStart` will train, all
    zeros until rounding begins.

    start_steps: the steps that training starts from, which are not trained, or None.
    """

    def __init__(
        self,
        weight: Parameter,
        log_steps: Parameter,
        offsets: Parameter | None = None,
        start_steps: Parameter | None = None,
    ) -> None:
        self.weight, self.log_steps, self.offsets = weight, log_steps, offsets
        self.start_steps = start_steps


class EmbeddingWithScales(Embedding):
    """An `Embedding` with the scales of a packed table (start_steps.py), which are not trained. All
    zeros: the grid's own rule chooses the scales.

    start_minima: the lowest levels of the groups, or None if the grid stores none.
    """

    def __init__(
        self, weight: Parameter, start_steps: Parameter, start_minima: Parameter | None = None
    ) -> None:
        self.weight, self.start_steps, self.start_minima = weight, start_steps, start_minima


def prepare_qat(
    model: Module,
    spec: QuantizationSpec,
    linear: type[FakeQuantizedMatrix] = FakeQuantizedLinear,
    *,
    resumed: bool = False,
) -> Module:
    """Replace every `Linear` and `Embedding` of the model, in place, by a fake-quantized one with
    the same Parameter.

    linear: the class that a Linear becomes. resumed: learned steps have their values already, from
    a checkpoint. Otherwise they start at the steps with the smallest squared error. Returns the
    model. Works before and after parameters
    are moved into flat arrays. A table that is frozen already, or that has the scales of a packed
    table, is rounded here, once.
    Raises UserError, before anything is replaced, if a matrix or its inputs do not fit their grid;
    ValueError if the model is prepared or packed already.
    """
    quantized = FakeQuantizedMatrix | PackedMatrix
    if any(isinstance(module, quantized) for _, module in model.named_modules()):
        raise ValueError("the model is already quantized; prepare_qat takes a full-precision one")
    grids = grids_of(model, spec)

    def swap(name: str, module: Module) -> Module | None:
        if id(module) not in grids:
            return None
        grid = grids[id(module)]
        if isinstance(module, Embedding):
            scales = (None, None)
            if isinstance(module, EmbeddingWithScales):
                scales = module.start_steps, module.start_minima
            is_fixed = scales[0] is not None and bool(scales[0].data.any())
            is_fixed = is_fixed or not module.weight.requires_grad
            table = FrozenEmbedding if is_fixed else FakeQuantizedEmbedding
            return table(module.weight, grid, spec, name, *scales)
        if isinstance(module, LinearWithStepParameters) and linear is FakeQuantizedLinear:
            return _learned_linear(module, grid, spec, name, resumed)
        return linear(module.weight, grid, spec, name)

    return with_cache(replace_modules(model, swap), spec.cache)


def add_learned_step_parameters(model: Module, spec: QuantizationSpec) -> Module:
    """Add to every `Linear` of a new model the parameters that `prepare_qat` will train, all zeros.
    Returns the model.

    These are `log_steps` (groups,) and, if the spec says that offsets are learned, `offsets`
    (groups,). With "learned-from-start", the trunk's layers get `log_steps` and `start_steps`
    (groups,), which are not trained, and the token table gets the scales of a packed one. The
    optimizer and checkpoints need them from the start, even if rounding begins later. Vectors are
    exempt from weight decay.
    Raises the errors of `prepare_qat` for matrices that do not fit, and UserError for grids without
    a single step or offset.
    """
    grids = grids_of(model, spec)
    in_heads = modules_in_heads(model)

    def add_start(name: str, module: Module) -> Module | None:
        if isinstance(module, Embedding):
            return _with_scales(module, grids[id(module)])
        if not isinstance(module, Linear) or id(module) in in_heads:
            return None
        grid, weight = grids[id(module)], module.weight.data
        require_single_step(grid, f"{name}.weight")
        groups, zeros = _count_groups(grid, weight, False), array_module(weight).zeros
        steps = [Parameter(zeros(groups, weight.dtype)) for _ in range(2)]
        steps[1].requires_grad = False
        return LinearWithStepParameters(module.weight, steps[0], start_steps=steps[1])

    def add(name: str, module: Module) -> Module | None:
        if not isinstance(module, Linear):
            return None
        weight, learns_offsets = module.weight.data, spec.scales == "learned-offset"
        groups = _count_groups(grids[id(module)], weight, learns_offsets)
        zeros = array_module(weight).zeros
        log_steps = Parameter(zeros(groups, weight.dtype))
        offsets = Parameter(zeros(groups, weight.dtype)) if learns_offsets else None
        return LinearWithStepParameters(module.weight, log_steps, offsets)

    return replace_modules(model, add_start if spec.scales == "learned-from-start" else add)


def _learned_linear(
    module: LinearWithStepParameters, grid: Grid, spec: QuantizationSpec, name: str, resumed: bool
) -> LearnedLinear | LinearFromStart:
    """Start the learned parameters at the steps with the smallest squared error, unless they are
    resumed or start from given steps.
    """
    log_steps, offsets = module.log_steps, module.offsets
    if module.start_steps is not None:
        return LinearFromStart(module.weight, grid, spec, name, log_steps, module.start_steps)
    if not resumed:  # their values do not tell: trained log steps may all be 0
        weight = module.weight.data, f"{name}.weight"
        if offsets is None:
            log_steps.data[...] = first_log_steps(grid, *weight)
        else:
            log_steps.data[...], offsets.data[...] = first_log_steps_and_offsets(grid, *weight)
    return LearnedLinear(module.weight, grid, spec, name, log_steps, offsets)


def _with_scales(module: Embedding, grid: Grid) -> EmbeddingWithScales | None:
    """Return the table with scales of zeros, or None if the grid stores others than steps and
    lowest levels.
    """
    weight, count = module.weight.data, scales_per_group(grid)
    if not count:
        return None
    rows, groups = grid.scales_shape(*weight.shape)
    zeros = array_module(weight).zeros
    scales = [Parameter(zeros(rows * groups, weight.dtype)) for _ in range(count)]
    for parameter in scales:
        parameter.requires_grad = False
    return EmbeddingWithScales(module.weight, *scales)


def _count_groups(grid: Grid, weight: Array, with_offsets: bool) -> int:
    """Return the number of groups of a matrix. Raises UserError if the grid has no parameter of the
    kind that is to be learned.
    """
    # Zeros rather than the weights, which may be unset yet: only the shape of the scales matters.
    scales = grid.encode(array_module(weight).zeros(weight.shape, weight.dtype))[1]
    step = step_and_minimum_of(grid, scales)[0] if with_offsets else step_of(grid, scales)
    return step.size
