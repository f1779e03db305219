"""From a fake-quantized model to a packed one, and back from a file's arrays to a packed model."""

from collections.abc import Callable

from minimtp.backend import Array, array_module, to_numpy
from minimtp.engine.module import Module, replace_modules, replicate
from minimtp.errors import UserError, shown
from minimtp.model.layers import Embedding
from minimtp.quant import packing
from minimtp.quant.grids import Grid
from minimtp.quant.packed_matrix import PackedEmbedding, PackedLinear, PackedMatrix, packed_name
from minimtp.quant.qat.kv_cache import with_cache
from minimtp.quant.qat.modules import FakeQuantizedEmbedding, FakeQuantizedMatrix
from minimtp.quant.qat.spec import QuantizationSpec, grids_of

ADVICE = "use another run folder"


def convert(model: Module) -> Module:
    """Return a new model with packed matrices. The fake-quantized model is not changed and can
    continue training.

    Raises ValueError if nothing in the model is fake-quantized, UserError if weights are not
    finite.
    """
    if not any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules()):
        raise ValueError("nothing to convert: call prepare_qat on the model first")
    packed: dict[int, Array] = {}  # by id(parameter): a shared matrix is packed once

    def swap(name: str, module: Module) -> Module | None:
        if not isinstance(module, FakeQuantizedMatrix):
            return None
        key = id(module.weight)
        if key not in packed:
            packed[key] = module.pack()
        return _packed_module(module, module.grid, packed[key], module.spec)

    return replace_modules(_copy(model), swap)


def packed_model(model: Module) -> Module:
    """Return the model ready to decode or to be written: converted if it is fake-quantized."""
    fake = any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules())
    return convert(model) if fake else model


def pack_tables(
    model: Module, pack: Callable[[FakeQuantizedEmbedding], Array] = FakeQuantizedEmbedding.pack
) -> Module:
    """Replace, in place, the fake-quantized token tables by packed ones, which decode only the rows
    that are looked up. Returns the model.

    pack: returns the packed rows of a table, uint8 (N, bytes per row).
    """

    def swap(name: str, module: Module) -> Module | None:
        if not isinstance(module, FakeQuantizedEmbedding):
            return None
        return _packed_module(module, module.grid, pack(module), module.spec)

    return replace_modules(model, swap)


def restore(model: Module, spec: QuantizationSpec, arrays: dict[str, Array]) -> Module:
    """Put the arrays of a file (`stored_arrays` of a packed model) into a newly built model of the
    same sizes.

    model: full precision, its weights do not matter. It is changed in place and returned, packed.
    Raises UserError if an array is missing, left over, does not have the shape that the model and
    the spec need, or holds scales that are not finite.
    """
    grids = grids_of(model, spec)
    left = dict(arrays)
    packed: dict[int, Array] = {}  # by id(parameter), as in `convert`

    def take(name: str, shape: tuple[int, ...], dtype: str) -> Array:
        array = left.pop(name, None)
        if array is None or array.shape != shape or array.dtype != dtype:
            found = "missing" if array is None else f"{array.dtype} of shape {shown(array.shape)}"
            raise UserError(
                f"{name} is {found}, but this model needs {dtype} of shape {shape}: the file "
                "belongs to another model"
            )
        return array

    def swap(name: str, module: Module) -> Module | None:
        if id(module) not in grids:
            return None
        grid, key, (rows, columns) = grids[id(module)], id(module.weight), module.weight.shape
        if key not in packed:
            shape = rows, packing.row_bytes(grid, columns)
            packed[key] = take(packed_name(name), shape, "uint8")
            if not packing.has_finite_scales(grid, packed[key]):
                raise UserError(f"{name} has scales that are NaN or infinite: {ADVICE}")
        return _packed_module(module, grid, packed[key], spec)

    model = with_cache(replace_modules(model, swap), spec.cache)
    for name, parameter in model.named_parameters():
        parameter.data = take(name, parameter.shape, parameter.dtype)
        if not array_module(parameter.data).isfinite(parameter.data).all():
            raise UserError(f"{name} has weights that are NaN or infinite: {ADVICE}")
    for name, indices in model.named_indices():
        indices.data = to_numpy(take(name, indices.data.shape, "int32"))
        if not indices.are_valid():
            raise UserError(f"{name} is not a list of increasing tokens: {ADVICE}")
    if left:
        names = shown(", ".join(sorted(left)), 100)
        raise UserError(
            f"the file holds {names}, which this model does not have: it belongs to another model"
        )
    return model


def _packed_module(
    module: Module, grid: Grid, packed: Array, spec: QuantizationSpec
) -> PackedMatrix:
    """Return the packed form of a full-precision or fake-quantized module. packed: uint8 (N, bytes
    per row).
    """
    if isinstance(module, Embedding | FakeQuantizedEmbedding):
        return PackedEmbedding(grid, packed, spec.activations, module.weight.dtype)
    return PackedLinear(grid, packed, spec.activations)


def _copy(model: Module) -> Module:
    """Return a second module tree. It shares the matrices, which are packed next, and copies the
    few small parameters.
    """
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
