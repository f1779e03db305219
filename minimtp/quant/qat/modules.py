"""Quantization-aware training: swap a model's matrices for ones that are rounded on every use, train, then pack them.

    prepare(model, spec)     Linear, Embedding  ->  FakeQuantizedLinear, FakeQuantizedEmbedding     (still float, still trains)
    convert(model)           those              ->  PackedLinear, PackedEmbedding                   (bytes, for decoding)

A prepared module keeps the master weights, the same Parameter objects as before: the optimizer, flat arrays, gradients and
checkpoints notice nothing, and updates much smaller than a quantization step are not lost. Its forward pass rounds them to
the grid (`quant/qat/fake_quantize.py`) and rounds the activations as the integer kernels will. It always does, in evaluation too: a loss
measured without the rounding is another model's loss.

Which grid a matrix gets (`QuantizationSpec`): the trunk's products `weights`, everything under the prediction heads `heads`,
the token table and the output `embedding`, which is finer by default: both touch the tokens directly and tolerate 4 bits
badly, and llama.cpp keeps them at Q8_0 for such models. A tied table is one matrix with one grid; every use
rounds it to the same numbers, the lookup and the output alike.
Norm weights stay full precision. Nothing is skipped silently: a matrix whose rows are not
whole groups is an error that names it, and so is one whose inputs are not.
"""

from dataclasses import dataclass
from typing import Any

from minimtp.backend import Array, array_module
from minimtp.engine.module import Module, replace_modules, replicate
from minimtp.engine.tensor import Op, Parameter, Tensor
from minimtp.errors import UserError
from minimtp.kernels.plain.quantize import GROUP
from minimtp.model.heads import Heads
from minimtp.model.layers import Embedding, Linear
from minimtp.model.transformer import Attention, Transformer
from minimtp.quant import packing
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.registry import MASKS, Grid, grid_named
from minimtp.quant.grids.scales import step_and_minimum_of, step_of
from minimtp.quant.packed import ACTIVATIONS, PackedEmbedding, PackedLinear, PackedMatrix
from minimtp.quant.qat.fake_quantize import FakeQuantize, RoundedLookup, RoundedProduct
from minimtp.quant.qat.kv_cache import CACHES, AttentionOverRoundedCache
from minimtp.quant.qat.learned import (
    FakeQuantizeLearned,
    encode_learned,
    first_logarithms,
    first_logarithms_and_offsets,
)

SCALES = ("grid", "learned", "learned-offset", "learned-bound")


@dataclass(frozen=True)
class QuantizationSpec:
    """What is rounded to what. Raises UserError for names that do not exist.

    weights, embedding, output, heads: names of grids, for the trunk's matrices, for the token table, for an output of its own
    ("same": as the table), for prediction heads.
    activations: "int8" (rounded before each product, in groups of 32), "int8-token" (one scale for all that a product sees of
    a token) or "none".
    straight_through: the mask of the weights' gradients, see `minimtp.quant.qat.fake_quantize`.
    cache: "float", or "int8" or "int4", what attention reads of keys and values, see `minimtp.quant.qat.kv_cache`.
    scales: "grid" (each group's scale by the grid's own rule), or how they are trained with the weights, "learned",
    "learned-offset" or "learned-bound", see `minimtp.quant.qat.learned`; the tables keep the grid's rule.
    """

    weights: str = "q4_0"
    embedding: str = "q8_0"
    heads: str = "q4_0"
    activations: str = "int8"
    straight_through: str = "pass"
    output: str = "same"
    scales: str = "grid"
    cache: str = "float"

    def __post_init__(self) -> None:
        for name in (self.weights, self.embedding, self.heads, self.output_grid):
            grid_named(name)
        if self.scales not in SCALES:
            raise UserError(f"unknown scales {self.scales!r}: use {', '.join(SCALES)}")
        if self.cache not in CACHES:
            raise UserError(f"unknown cache {self.cache!r}: use {', '.join(CACHES)}")
        if self.activations not in ACTIVATIONS:
            raise UserError(
                f"unknown activation rounding {self.activations!r}: use {', '.join(ACTIVATIONS)}"
            )
        if self.straight_through not in MASKS:
            raise UserError(
                f"unknown straight-through mask {self.straight_through!r}: use {', '.join(MASKS)}"
            )

    @property
    def output_grid(self) -> str:
        """The name of the grid of an output that is not the token table."""
        return self.embedding if self.output == "same" else self.output


class FakeQuantizedMatrix(Module):
    """Master weights (N, K) that every use sees rounded. `name` is what errors call the module."""

    def __init__(self, weight: Parameter, grid: Grid, spec: QuantizationSpec, name: str) -> None:
        self.weight, self.grid, self.spec, self.name = weight, grid, spec, name

    @property
    def activations(self) -> str:
        """How a product rounds its inputs."""
        return "none" if self.grid.inputs == "none" else self.spec.activations

    @property
    def operands(self) -> tuple[Parameter, ...]:
        """What `rounding` takes."""
        return (self.weight,)

    def rounding(self) -> Op:
        """A new operation that puts the weights on their grid, differentiated straight through."""
        return FakeQuantize(self.grid, self.spec.straight_through, f"{self.name}.weight")

    def rounded(self) -> Tensor:
        """The weights on their grid (N, K), connected to the master weights."""
        return self.rounding().apply(*self.operands)

    def encode(self) -> tuple[Array, Scales]:
        """The codes and scales that `rounded` stands for: what a file stores."""
        return self.grid.encode(self.weight.data, f"{self.name}.weight")

    def product(self, x: Tensor) -> Tensor:
        """x (..., K) -> x Wᵀ (..., N), both rounded."""
        return RoundedProduct(self.rounding, self.activations).apply(x, *self.operands)


class FakeQuantizedLinear(FakeQuantizedMatrix):
    """A `Linear` in training for its packed form."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(x)


class LearnedLinear(FakeQuantizedLinear):
    """A `Linear` in training together with its groups' steps: `log_steps` (groups,) are what they are multiplied by, and
    `offsets` (groups,), where there are any, how many of the grid's own steps the levels are moved."""

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
        return (
            (self.weight, self.log_steps)
            if self.offsets is None
            else (self.weight, self.log_steps, self.offsets)
        )

    def rounding(self) -> Op:
        return FakeQuantizeLearned(
            self.grid, f"{self.name}.weight", self.spec.scales == "learned-bound"
        )

    def encode(self) -> tuple[Array, Scales]:
        offsets = None if self.offsets is None else self.offsets.data
        return encode_learned(
            self.grid, self.weight.data, self.log_steps.data, f"{self.name}.weight", offsets
        )


class FakeQuantizedEmbedding(FakeQuantizedMatrix):
    """An `Embedding` in training for its packed form; the lookup and the tied output see the same rounded table."""

    def __call__(self, tokens: Array) -> Tensor:
        return RoundedLookup(tokens, self.rounding).apply(self.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.product(hidden)


def prepare(
    model: Module, spec: QuantizationSpec, linear: type[FakeQuantizedMatrix] = FakeQuantizedLinear
) -> Module:
    """Swap every `Linear` and `Embedding` of the model, in place, for a fake-quantized one with the same Parameter.

    linear: what a Linear becomes. Returns the model. Works before and after the parameters were moved into flat arrays.

    Raises UserError, before anything is swapped, when a matrix or its inputs do not fit their grid; ValueError for a model
    that is prepared or packed already.
    """
    if any(
        isinstance(module, FakeQuantizedMatrix | PackedMatrix)
        for _, module in model.named_modules()
    ):
        raise ValueError("the model is already quantized; prepare takes a full-precision one")
    grids = _grids(model, spec)

    def swap(name: str, module: Module) -> Module | None:
        if id(module) not in grids:
            return None
        grid = grids[id(module)]
        if isinstance(module, Embedding):
            return FakeQuantizedEmbedding(module.weight, grid, spec, name)
        log_steps, offsets = getattr(module, "log_steps", None), getattr(module, "offsets", None)
        if (
            log_steps is None or linear is not FakeQuantizedLinear
        ):  # steps are learned in training only
            return linear(module.weight, grid, spec, name)
        if not log_steps.data.any():  # nothing has been learned yet
            weight = module.weight.data, f"{name}.weight"
            if offsets is None:
                log_steps.data[...] = first_logarithms(grid, *weight)
            else:
                log_steps.data[...], offsets.data[...] = first_logarithms_and_offsets(grid, *weight)
        return LearnedLinear(module.weight, grid, spec, name, log_steps, offsets)

    return _with_cache(replace_modules(model, swap), spec)


def make_room_for_learned_steps(model: Module, spec: QuantizationSpec) -> None:
    """Give every `Linear` of a new model the parameters that `prepare` will find there, zeros: `log_steps` (groups,), and
    `offsets` (groups,) where the spec says that they are learned.

    Optimizers and checkpoints need to know of them from the beginning, also where rounding begins later. As vectors they are
    not decayed. Raises what `prepare` raises for matrices that do not fit, and UserError for grids that do not have what is to
    be learned.
    """
    grids, with_offsets = _grids(model, spec), spec.scales == "learned-offset"
    for _, module in model.named_modules():
        if isinstance(module, Linear):
            grid, weight = grids[id(module)], module.weight.data
            zeros = array_module(weight).zeros
            scales = grid.encode(zeros(weight.shape, weight.dtype))[
                1
            ]  # how many, not which: the weights may be unset yet
            step = step_and_minimum_of(grid, scales)[0] if with_offsets else step_of(grid, scales)
            module.log_steps = Parameter(zeros(step.size, weight.dtype))
            if with_offsets:
                module.offsets = Parameter(zeros(step.size, weight.dtype))


def convert(model: Module) -> Module:
    """A new model with the prepared model's matrices packed; the prepared one is left as it is and can train on.

    Raises ValueError if nothing in the model is prepared, UserError for weights that are not finite.
    """
    if not any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules()):
        raise ValueError("nothing to convert: prepare the model first")
    blocks: dict[int, Array] = {}  # by parameter: a matrix that two modules share is packed once

    def swap(name: str, module: Module) -> Module | None:
        if not isinstance(module, FakeQuantizedMatrix):
            return None
        key = id(module.weight)
        if key not in blocks:
            blocks[key] = packing.pack(module.grid, *module.encode())
        return _packed(module, module.grid, blocks[key], module.spec, module.weight.dtype)

    return replace_modules(_copy(model), swap)


def restore(model: Module, spec: QuantizationSpec, arrays: dict[str, Array]) -> Module:
    """A packed model from a full-precision one of the same shape (its weights do not matter) and `stored_arrays`.

    model: freshly built; it is changed in place and returned.
    Raises UserError when an array is missing, left over, or has another shape than the model and the spec ask for.
    """
    grids = _grids(model, spec)
    left = dict(arrays)
    taken: dict[int, Array] = {}  # by parameter, like the blocks in `convert`

    def take(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        array = left.pop(name, None)
        if array is None or array.shape != shape or array.dtype != dtype:
            found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise UserError(
                f"{name} is {found}, but this model needs {dtype} of shape {shape}: the file is another model's"
            )
        return array

    def swap(name: str, module: Module) -> Module | None:
        if id(module) not in grids:
            return None
        grid, (rows, columns) = grids[id(module)], module.weight.shape
        if id(module.weight) not in taken:
            shape = rows, packing.row_bytes(grid, columns)
            taken[id(module.weight)] = take(f"{name}.packed" if name else "packed", shape, "uint8")
        return _packed(module, grid, taken[id(module.weight)], spec, module.weight.dtype)

    model = _with_cache(replace_modules(model, swap), spec)
    for name, parameter in model.named_parameters():
        parameter.data = take(name, parameter.shape, parameter.dtype)
    if left:
        raise UserError(
            f"the file holds {', '.join(sorted(left))}, which this model does not have: it is another model's"
        )
    return model


def _with_cache(model: Module, spec: QuantizationSpec) -> Module:
    """The model, every attention reading its keys and values from the spec's cache."""
    if spec.cache == "float":
        return model
    return replace_modules(
        model,
        lambda _, m: AttentionOverRoundedCache(m, spec.cache) if isinstance(m, Attention) else None,
    )


def _grids(model: Module, spec: QuantizationSpec) -> dict[int, Grid]:
    """The grid of every Linear and Embedding, by the module's id. Raises UserError for the first that does not fit."""
    modules = list(model.named_modules())
    tables = {id(m.weight): spec.embedding for _, m in modules if isinstance(m, Embedding)}
    for _, module in modules:
        if isinstance(module, Transformer) and module.output is not None:
            tables.setdefault(id(module.output.weight), spec.output_grid)
    under_heads = {
        id(below) for _, m in modules if isinstance(m, Heads) for _, below in m.named_modules()
    }
    grids: dict[int, Grid] = {}
    for name, module in modules:
        if not isinstance(module, Linear | Embedding):
            continue
        choice = spec.heads if id(module) in under_heads else spec.weights
        grid = grids[id(module)] = grid_named(tables.get(id(module.weight), choice))
        grid.check_columns(module.weight.shape, f"{name}.weight")
        columns = module.weight.shape[1]
        if spec.activations == "int8" and grid.inputs != "none" and columns % GROUP:
            raise UserError(
                f"{name}.weight has rows of {columns}, and a product's inputs are rounded to int8 in groups of {GROUP}: take "
                f"a model whose sizes are multiples of {GROUP}, the grid f16, or activations int8-token or none"
            )
    return grids


def _packed(
    module: Module, grid: Grid, blocks: Array, spec: QuantizationSpec, dtype: Any
) -> PackedMatrix:
    if isinstance(module, Embedding | FakeQuantizedEmbedding):
        return PackedEmbedding(grid, blocks, spec.activations, dtype)
    return PackedLinear(grid, blocks, spec.activations)


def _copy(model: Module) -> Module:
    """A second tree. Matrices are shared until they are packed; the other parameters, few and small, are copied."""
    copy = replicate(model)
    masters = {
        id(module.weight)
        for _, module in copy.named_modules()
        if isinstance(module, FakeQuantizedMatrix)
    }
    for parameter in copy.parameters():
        if id(parameter) not in masters:
            parameter.data = array_module(parameter.data).array(parameter.data)
    return copy
