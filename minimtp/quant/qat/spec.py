"""The grid to which each matrix of a model is rounded.

The matrices of the trunk's blocks have the grid `weights`, or several (quant/grids/mixture.py).
Everything in the prediction heads has `heads`. The token table and the output have `embedding`,
which is finer by default. Both lose much quality at 4 bits, because they represent the tokens
directly. llama.cpp also keeps them at Q8_0 for models of this size. A tied table is one matrix with
one grid, and the lookup and the output see the same rounded numbers. Norm weights stay in full
precision.

Nothing is skipped silently. If the rows or the inputs of a matrix are not whole groups, the error
names the matrix.
"""

from dataclasses import dataclass

from minimtp.engine.module import Module
from minimtp.errors import UserError, shown
from minimtp.kernels.plain.quantize import GROUP
from minimtp.model.heads import Heads
from minimtp.model.layers import Embedding, Linear
from minimtp.model.transformer import Transformer
from minimtp.quant.activations import ACTIVATIONS
from minimtp.quant.grids import MASKS, Grid, grid_named
from minimtp.quant.grids.mixture import first_grid, grids_of_blocks
from minimtp.quant.qat.kv_cache import CACHES

SCALES = ("grid", "learned", "learned-offset", "learned-bound", "learned-from-start")


@dataclass(frozen=True)
class QuantizationSpec:
    """The grids and the settings of rounding. Raises UserError for unknown names.

    weights, embedding, output, heads: grid names, for the trunk's linear layers, the token table,
    an untied output ("same": the table's grid), and the prediction heads. `weights` may be a
    mixture, such as "q4_0,qkv=q5_0".
    activations: how the inputs of a matmul are rounded: "int8" (groups of 32), "int8-token" (one
    scale per token) or "none".
    straight_through: the mask of the weights' gradients, see `minimtp.quant.qat.fake_quantize`.
    scales: "grid" (each group's scale by the grid's own rule), or how scales are trained with the
    weights: "learned", "learned-offset" or "learned-bound", see `minimtp.quant.qat.learned`, or
    "learned-from-start", see `minimtp.quant.qat.start_steps`. The tables always use the grid's
    rule, and with "learned-from-start" the prediction heads as well.
    cache: the KV cache: "float", "int8" or "int4", see `minimtp.quant.qat.kv_cache`.
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
        grids_of_blocks(self.weights)
        for name in (self.embedding, self.heads, self.output_grid):
            grid_named(name)
        _check("scales", self.scales, SCALES)
        _check("cache", self.cache, CACHES)
        _check("activation rounding", self.activations, ACTIVATIONS)
        _check("straight-through mask", self.straight_through, MASKS)

    @property
    def output_grid(self) -> str:
        """The name of an untied output's grid."""
        return self.embedding if self.output == "same" else self.output


def grids_of(model: Module, spec: QuantizationSpec) -> dict[int, Grid]:
    """Return the grid of every Linear and Embedding, by id(module). Raises UserError for the first
    one that does not fit.
    """
    modules = list(model.named_modules())
    blocks, heads = grids_of_blocks(spec.weights), grid_named(spec.heads)
    others = grid_named(first_grid(spec.weights))
    tables = {id(m.weight): spec.embedding for _, m in modules if isinstance(m, Embedding)}
    for _, module in modules:
        if isinstance(module, Transformer) and module.output is not None:
            tables.setdefault(id(module.output.weight), spec.output_grid)
    in_heads = modules_in_heads(model)
    grids: dict[int, Grid] = {}
    for name, module in modules:
        if isinstance(module, Linear | Embedding):
            if id(module.weight) in tables:
                grid = grid_named(tables[id(module.weight)])
            else:
                trunk = blocks.get(name.rpartition(".")[2], others)
                grid = heads if id(module) in in_heads else trunk
            _check_fit(grid, module.weight.shape, f"{name}.weight", spec)
            grids[id(module)] = grid
    return grids


def modules_in_heads(model: Module) -> set[int]:
    """Return id(module) of every module in the prediction heads."""
    heads = [module for _, module in model.named_modules() if isinstance(module, Heads)]
    return {id(below) for module in heads for _, below in module.named_modules()}


def _check_fit(grid: Grid, shape: tuple[int, int], name: str, spec: QuantizationSpec) -> None:
    """Raise UserError unless a matrix of this shape (N, K), and its inputs, have whole groups."""
    grid.check_columns(shape, name)
    if spec.activations == "int8" and grid.inputs != "none" and shape[1] % GROUP:
        raise UserError(
            f"{name} has rows of {shape[1]}, and the inputs of a matmul are rounded to int8 in "
            f"groups of {GROUP}: use a model "
            f"whose sizes are multiples of {GROUP}, the grid f16, or activations int8-token or none"
        )


def _check(what: str, choice: str, choices: tuple[str, ...]) -> None:
    if choice not in choices:
        raise UserError(f"unknown {what} {shown(choice)!r}: use {', '.join(choices)}")
