"""Arrays of the stand-in: every operation runs on the NumPy array inside, or is recorded."""

import operator
from types import SimpleNamespace

from minimtp.backend import numpy as np
from tests.strict_cupy import recording
from tests.strict_cupy.recording import CaptureError, Refused

SCALARS = (bool, int, float, complex, np.generic)


def read(array: "ndarray") -> np.ndarray:
    if recording.capture is not None:
        raise CaptureError("a read of the device while a stream is captured")
    recording.traffic.reads += 1
    return array._data


def unwrap(value: object) -> object:
    """Return the NumPy array of a device array, or a number unchanged. Reject host arrays."""
    if isinstance(value, ndarray):
        return value._data
    if isinstance(value, np.ndarray):
        raise Refused(
            "Unsupported type <class 'numpy.ndarray'>: a host array beside a device array"
        )
    if isinstance(value, (list, tuple)):
        return type(value)(unwrap(member) for member in value)
    return value


def fill_with_nonsense(data: np.ndarray) -> None:
    data[...] = (
        np.nan
        if data.dtype.kind in "fc"
        else np.iinfo(data.dtype).max
        if data.dtype.kind in "iu"
        else 1
    )


def run(function, *arguments, writes=(), trial=None, **options):
    """Run function(*arguments) on the NumPy arrays and wrap its result.

    writes: device arrays that the function changes.
    trial: a function whose result has the same shape. It runs instead while a stream is captured,
    because then the arguments hold nonsense.
    """
    host = [unwrap(argument) for argument in arguments]
    named = {name: unwrap(option) for name, option in options.items()}
    inputs = [a for a in (*flat(host), *named.values()) if isinstance(a, np.ndarray)]
    if recording.capture is not None and writes:
        recording.capture.append(lambda: function(*host, **named))
        for array in writes:
            fill_with_nonsense(array._data)
        return None
    with np.errstate(all="ignore"):
        result = (function if recording.capture is None else trial or function)(*host, **named)
    if writes:
        recording.traffic.launches += 1
        return None
    if not isinstance(result, np.ndarray):
        result = np.asarray(result)
    view = any(np.may_share_memory(result, array) for array in inputs)
    if not view:
        recording.traffic.launches += 1
        if recording.capture is not None:

            def replay():
                with np.errstate(all="ignore"):
                    result[...] = function(*host, **named)

            recording.capture.append(replay)
            fill_with_nonsense(result)
    return ndarray(result)


def flat(values):
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        else:
            yield value


def _binary(function, swapped=False):
    def method(self, other):
        if not isinstance(other, (ndarray, *SCALARS)):
            if isinstance(other, np.ndarray):
                raise Refused(
                    "Unsupported type <class 'numpy.ndarray'>: a host array beside a device array"
                )
            return NotImplemented
        return run(function, other, self) if swapped else run(function, self, other)

    return method


def _inplace(function):
    def method(self, other):
        if not isinstance(other, (ndarray, *SCALARS)):
            raise Refused(f"Unsupported type {type(other)}")
        run(function, self, other, writes=(self,))
        return self

    return method


def host_index(index):
    """Return the index for NumPy. Lists and host arrays are rejected, because CuPy uploads them."""
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, (list, np.ndarray)) and np.ndim(part):
            raise Refused(
                "an index of lists or host arrays is an upload, so move it to the device first"
            )
        if isinstance(part, slice) and any(
            isinstance(end, ndarray) for end in (part.start, part.stop, part.step)
        ):
            raise Refused("the bounds of a slice must be numbers of the host")
    host = tuple(part._data if isinstance(part, ndarray) else part for part in parts)
    return host if isinstance(index, tuple) else host[0]


class ndarray:  # noqa: N801  (CuPy's name)
    """An array on the device."""

    __slots__ = ("_data", "_owner")
    __array_ufunc__ = None  # so NumPy scalars leave arithmetic to the operators below

    def __init__(self, data: np.ndarray) -> None:
        self._data = data

    def __array__(self, *arguments, **options):
        raise Refused("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_function__(self, function, types, arguments, options):
        raise Refused(f"numpy.{function.__name__} on a device array: use the array's own module")

    shape = property(lambda self: self._data.shape)
    dtype = property(lambda self: self._data.dtype)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    nbytes = property(lambda self: self._data.nbytes)
    itemsize = property(lambda self: self._data.itemsize)
    strides = property(lambda self: self._data.strides)
    flags = property(lambda self: self._data.flags)
    data = property(lambda self: SimpleNamespace(ptr=self._data.ctypes.data))
    T = property(lambda self: ndarray(self._data.T))

    def __len__(self):
        return len(self._data)

    def __repr__(self):
        return f"device{self._data!r}"

    __hash__ = None

    # ------------------------------------------------------------ the host waits

    def get(self):
        return read(self).copy()

    def item(self, *index):
        return read(self).item(*index)

    def tolist(self):
        return read(self).tolist()

    def __float__(self):
        return float(read(self))

    def __int__(self):
        return int(read(self))

    def __bool__(self):
        return bool(read(self))

    # ------------------------------------------------------------ elements

    def __getitem__(self, index):
        host = host_index(index)
        return run(
            lambda data, *_: data[host],
            self,
            *arrays_in(index),
            trial=lambda data, *_: data[_anywhere(host)],
        )

    def __setitem__(self, index, value):
        if not isinstance(value, (ndarray, *SCALARS)):
            raise Refused(f"{type(value)} cannot be assigned to elements of a device array")
        host = host_index(index)

        def assign(data, new, *_):
            data[host] = new

        run(assign, self, value, *arrays_in(index), writes=(self,))

    def __iter__(self):
        return (self[i] for i in range(len(self)))


def _anywhere(host):
    """Return an index of the same form that is within bounds."""
    if isinstance(host, tuple):
        return tuple(map(_anywhere, host))
    return np.zeros_like(host) if isinstance(host, np.ndarray) and host.dtype.kind in "iu" else host


def arrays_in(index):
    return [
        part
        for part in (index if isinstance(index, tuple) else (index,))
        if isinstance(part, ndarray)
    ]


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
):
    _function = getattr(operator, f"{_name}_" if _name in ("and", "or") else _name)
    setattr(ndarray, f"__{_name}__", _binary(_function))
    setattr(ndarray, f"__r{_name}__", _binary(_function, swapped=True))
    if _name != "matmul":  # CuPy has no @=
        setattr(ndarray, f"__i{_name}__", _inplace(getattr(operator, f"i{_name}")))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", lambda self, name=_name: run(getattr(operator, name), self))
for _name in (
    "all", "any", "argmax", "argmin", "argsort", "astype", "copy", "cumsum", "dot", "max", "mean",
    "min", "prod", "ravel", "repeat", "reshape", "searchsorted", "squeeze", "sum", "swapaxes",
    "take", "transpose",
):  # fmt: skip
    setattr(
        ndarray,
        _name,
        lambda self, *a, name=_name, **o: run(
            lambda d, *b, **p: getattr(d, name)(*b, **p), self, *a, **o
        ),
    )


def _fill(self, value):
    run(lambda data, new: data.fill(new), self, value, writes=(self,))


ndarray.fill = _fill


def _view(self, dtype):
    if np.dtype(dtype).itemsize != self.itemsize and not self.flags.c_contiguous:
        raise Refused("To change to a dtype of a different size, the array must be C-contiguous")
    return run(lambda data: data.view(dtype), self)


ndarray.view = _view
