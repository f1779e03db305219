"""How keys and values are stored in the cache: the order of the keys, and the number formats.

A cache holds the numbers themselves, float16, or int8 codes. Float16 is half as large as float32
and int8 about a quarter, and reading a long cache takes most of the time of plain decoding.

    int8    value = code * step, codes -127..127, one step for the C numbers of a head

Steps are rounded to float16, but stored as float32, which needs no conversion. This is the grid
`int8-restricted-channel`, with which training with an int8 cache rounds (quant/qat/kv_cache.py).
"""

from minimtp.backend import MAX_FLOAT16, Array, array_module
from minimtp.kernels.plain.steps import MIN_STEP

KEY_PANEL = 32  # positions whose cached keys are stored together
MAX_CODE = 127


def key_panels(positions: int) -> int:
    """Return the number of panels that hold the keys of this many positions."""
    return -(-positions // KEY_PANEL)


def first_panels(keys: Array, positions: int) -> Array:
    """Return a view of the panels of cached keys (..., N, C, P) that hold these positions."""
    return keys[..., : -(-positions // keys.shape[-1]), :, :]


def joined_panels(keys: Array) -> Array:
    """Join the panels of cached keys: (..., N, C, P) -> (..., C, N P), a copy."""
    *outer, panels, head_dim, panel = keys.shape
    return keys.swapaxes(-3, -2).reshape(*outer, head_dim, panels * panel)


def as_stored(x: Array, dtype: object) -> tuple[Array, Array | None]:
    """Keys or values (T, G, C) -> what a cache of this type stores of them, (T, G, C), and its
    steps (T, G), which only int8 has.

    Magnitudes above 65,504, the largest in float16, become 65,504 there.
    """
    if dtype == "int8":
        return _int8_codes(x)
    if dtype == "float16":
        x = x.clip(-MAX_FLOAT16, MAX_FLOAT16)
    return x.astype(dtype, copy=False), None


def decoded(keys: Array, values: Array, steps: Array) -> tuple[Array, Array]:
    """Return the numbers of int8 keys (G, N, C, P) and values (S, G, C), float32, in the same
    shapes. steps: at least (2, G, N P), of keys and of values.
    """
    groups, panels, _, panel = keys.shape
    key_steps = steps[0, :, : panels * panel].reshape(groups, panels, 1, panel)
    value_steps = steps[1, :, : len(values)]
    return keys * key_steps, values * value_steps.T[..., None]


def require_steps(keys: Array, steps: Array | None) -> None:
    """Raise ValueError unless int8 keys (..., G, N, C, P), and no others, have steps
    (..., 2, G, N P).
    """
    *outer, groups, panels, _, panel = keys.shape
    wanted = (*outer, 2, groups, panels * panel) if keys.dtype == "int8" else None
    if (None if steps is None else steps.shape) != wanted:
        raise ValueError(
            "an int8 cache needs a step for each key and value, and no other has steps"
        )


def _int8_codes(x: Array) -> tuple[Array, Array]:
    xp = array_module(x)
    x = x.astype(xp.float32, copy=False)
    step = xp.abs(x).max(axis=-1) / xp.float32(MAX_CODE)
    step = xp.minimum(step, xp.float32(MAX_FLOAT16)).astype(xp.float16).astype(xp.float32)
    divisor = xp.where(step < xp.float32(MIN_STEP), xp.float32("inf"), step)
    levels = xp.rint(x / divisor[..., None]).clip(-MAX_CODE, MAX_CODE)
    # Where the step is NaN, so is the value, whatever the code is.
    return xp.where(xp.isnan(levels), xp.float32(0), levels).astype(xp.int8), step
