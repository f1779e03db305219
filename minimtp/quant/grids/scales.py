"""Operations on the scales of a grid: one array (N, groups), or a named tuple of such arrays.

Methods that choose the scales of each group separately use them to take parts of the scales, to
join parts, and to choose between two sets of scales.
"""

from collections.abc import Callable

from minimtp.backend import MAX_FLOAT16, Array, array_module, numpy
from minimtp.errors import UserError
from minimtp.quant.grids.base import Grid, Scales, round_to_float16


def map_scales(function: Callable[..., Array], *scales: Scales) -> Scales:
    """Return function(array, ...) of the array, or of each array of the tuples."""
    if isinstance(scales[0], tuple):
        return type(scales[0])(*(function(*arrays) for arrays in zip(*scales, strict=True)))
    return function(*scales)


def put_group(scales: Scales, group: int, part: Scales) -> None:
    """Overwrite the scales of one group with `part`, (N, 1)."""

    def put(array: Array, new: Array) -> Array:
        array[:, group : group + 1] = new
        return array

    map_scales(put, scales, part)


def choose_scales(better: Array, new: Scales, old: Scales) -> Scales:
    """Return `new` for the groups whose boolean in `better` (N, groups) is true, else `old`."""
    return map_scales(lambda a, b: array_module(better).where(better, a, b), new, old)


def group_total(grid: Grid, scales: Scales, values: Array) -> Array:
    """values (N, K) -> their sum over each group, in the shape of the scales. A row's last group
    may be shorter.
    """
    xp, columns = array_module(values), values.shape[1]
    size = grid.group_size or columns
    whole = columns // size * size
    sums = values[:, :whole].reshape(len(values), -1, size).sum(axis=-1)  # (N, groups)
    if whole < columns:
        sums = xp.concatenate([sums, values[:, whole:].sum(axis=1, keepdims=True)], axis=1)
    first = scales[0] if isinstance(scales, tuple) else scales
    if len(first) == len(sums):
        return sums
    return sums.sum(axis=0, keepdims=True)  # one scale for the whole matrix


def per_weight(grid: Grid, groups: Array, columns: int) -> Array:
    """One value per group -> one per weight, (N, K) or a shape that broadcasts to it."""
    if grid.group_size is None:
        return groups
    return groups.repeat(grid.group_size, axis=1)[:, :columns]


def step_of(grid: Grid, scales: Scales) -> Array:
    """Return the step of each group. Raises UserError if the grid does not have exactly one per
    group.
    """
    if isinstance(scales, tuple):
        if scales._fields != ("step", "zero"):
            steps = "more than a step per group" if scales else "no steps"
            raise UserError(
                f"{grid.name} has {steps}, so it cannot be learned: use q4_0, q8_0 or a uniform "
                "grid"
            )
        return scales.step
    return scales


def is_code_times_step(grid: Grid) -> bool:
    """Return whether every value of the grid is its code times the step of its group, and nothing
    but steps and codes is stored.
    """
    if not -128 <= grid.min_code <= grid.max_code <= 127:  # f16, whose codes are bits of numbers
        return False
    codes = numpy.arange(grid.min_code, grid.max_code + 1, dtype="int8")[None]
    scales = grid.encode(numpy.zeros((1, 256), "float32"))[1]  # 256 columns: whole blocks
    if isinstance(scales, tuple):
        return False
    return bool((grid.decode(codes, numpy.ones_like(scales)) == codes).all())


def has_step_and_minimum(scales: Scales) -> bool:
    """Return whether the grid stores a step and a lowest level for each group."""
    return isinstance(scales, tuple) and scales._fields == ("step", "minimum")


def step_and_minimum_of(grid: Grid, scales: Scales) -> tuple[Array, Array]:
    """Return the step and the lowest level of each group. Raises UserError if the grid does not
    store the lowest level.
    """
    if not has_step_and_minimum(scales):
        raise UserError(
            f"{grid.name} has no offset, so none can be learned: use q4_1 or q5_1, or scales "
            "learned"
        )
    return scales


def stretched(grid: Grid, scales: Scales, factors: Array) -> Scales:
    """Return scales with `factors` times the steps, rounded to their stored type. Raises the errors
    of `step_of`.
    """
    with numpy.errstate(over="ignore"):  # clipped to the largest scale, or makes the loss infinite
        step = _stored(grid, step_of(grid, scales) * factors)
    return scales._replace(step=step) if isinstance(scales, tuple) else step


def stretched_and_shifted(grid: Grid, scales: Scales, factors: Array, offsets: Array) -> Scales:
    """Like `stretched`, but also move every level up by `offsets` times the old step.

    Raises the errors of `step_and_minimum_of`.
    """
    step, minimum = step_and_minimum_of(grid, scales)
    return type(scales)(_stored(grid, step * factors), _stored(grid, minimum + step * offsets))


def _stored(grid: Grid, numbers: Array) -> Array:
    """Round to the type in which the grid stores its scales."""
    if grid.scale_type == "float32":
        return numbers
    xp, largest = array_module(numbers), numpy.float32(MAX_FLOAT16)
    return round_to_float16(xp.minimum(xp.maximum(numbers, -largest), largest))
