"""Functions of the stand-in that make, join and change arrays."""

import builtins

from minimtp.backend import numpy as np
from tests.strict_cupy import recording
from tests.strict_cupy.arrays import (
    arrays_in,
    fill_with_nonsense,
    flat,
    host_index,
    ndarray,
    run,
    unwrap,
)
from tests.strict_cupy.recording import CaptureError


def _with_out(function):
    """Return the function with an optional argument `out`, as in a ufunc."""

    def call(*arguments, out=None, **options):
        if out is None:
            return run(function, *arguments, **options)
        run(
            lambda *host, **named: function(*host[:-1], out=host[-1], **named),
            *arguments,
            out,
            writes=(out,),
            **options,
        )
        return out

    return call


WITH_OUT = (
    "abs", "add", "ceil", "cos", "divide", "exp", "expm1", "floor", "greater", "isfinite", "isnan",
    "less", "log", "log1p", "logical_and", "logical_not", "logical_or", "maximum", "minimum",
    "multiply", "negative", "rint", "sign", "sin", "sqrt", "square", "subtract", "tanh", "trunc",
    "dot", "matmul", "cumsum", "cumprod", "clip",
)  # fmt: skip
OTHERS = (
    "all", "any", "argmax", "argmin", "argsort", "array_equal", "ascontiguousarray", "broadcast_to",
    "concatenate", "count_nonzero", "diff", "expand_dims", "flip", "max", "mean", "min", "moveaxis",
    "ravel", "repeat", "reshape", "searchsorted", "sort", "split", "squeeze", "stack", "sum",
    "swapaxes", "take", "take_along_axis", "tile", "transpose", "tril", "triu", "unique", "where",
    "full_like", "zeros_like", "ones_like", "empty_like", "einsum", "outer", "diag", "prod",
    "diagonal", "kron", "zeros", "ones", "full", "arange", "eye", "linspace", "identity",
)  # fmt: skip

for _name in WITH_OUT:
    globals()[_name] = _with_out(getattr(np, _name))
for _name in OTHERS:
    globals()[_name] = lambda *a, name=_name, **o: run(getattr(np, name), *a, **o)


def _joining(join):
    """Count an upload if more than 8 arrays are joined, because CuPy uploads their addresses."""

    def call(arrays, *others, **options):
        arrays = list(arrays)
        if len(arrays) > 8:
            if recording.capture is not None:
                raise CaptureError("an upload of the arrays' addresses while a stream is captured")
            recording.traffic.uploads += 1
        return join(arrays, *others, **options)

    return call


concatenate, stack = _joining(concatenate), _joining(stack)  # noqa: F821


def _add_at(array, index, values):
    def at(data, new, *_):
        np.add.at(data, host, new)

    host = host_index(index)
    run(at, array, values, *arrays_in(index), writes=(array,))


globals()["add"].at = _add_at


def empty(shape, dtype=float, order="C"):
    """Return an array full of nonsense, so reading an element that was never written shows."""
    result = np.empty(shape, dtype, order)
    fill_with_nonsense(result)
    return ndarray(result)


def empty_like(array, dtype=None, **options):  # noqa: F811
    result = np.empty_like(unwrap(array), dtype, **options)
    fill_with_nonsense(result)
    return ndarray(result)


def array(value, dtype=None, copy=True, **options):
    """Return a copy on the device. Copying host data is an upload."""
    if isinstance(value, ndarray):
        return run(lambda data: np.array(data, dtype, **options), value)
    if isinstance(value, (list, tuple)) and builtins.any(
        isinstance(member, ndarray) for member in flat(value)
    ):
        return stack([array(member, dtype) for member in value])  # noqa: F821
    if recording.capture is not None:
        raise CaptureError("an upload while a stream is captured")
    recording.traffic.uploads += 1
    return ndarray(np.array(value, dtype, **options))


def asarray(value, dtype=None, **options):
    if isinstance(value, ndarray):
        return value if dtype is None or value.dtype == np.dtype(dtype) else value.astype(dtype)
    return array(value, dtype, **options)


def copyto(target, source, casting="same_kind", where=None):
    if where is None:
        run(lambda data, new: np.copyto(data, new, casting), target, source, writes=(target,))
    else:
        run(
            lambda data, new, mask: np.copyto(data, new, casting, where=mask),
            target,
            source,
            where,
            writes=(target,),
        )


def array_split(array, sections, axis=0):
    return [ndarray(part) for part in np.array_split(unwrap(array), sections, axis)]


def asnumpy(value):
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


def result_type(*values):
    return np.result_type(*(unwrap(value) for value in values))


__all__ = [
    *WITH_OUT, *OTHERS, "array", "array_split", "asarray", "asnumpy", "copyto", "empty",
    "empty_like", "result_type",
]  # fmt: skip
