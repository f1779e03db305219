"""A stand-in for CuPy that computes with NumPy and is as strict as a GPU.

It rejects what would fail on a GPU and counts what would be slow there. Without a GPU, it shows
that code written for "the array's own module" really is: an array of this module is not a NumPy
array, never converts to one silently, and does not mix with one. `traffic` counts reads (the host
waits for the device), uploads, and launches.

* NumPy functions on these arrays, `np.asarray` of one, and arithmetic with a host array raise
  TypeError, as in CuPy.
* Reductions and single elements are arrays without dimensions. `float`, `int`, `bool`, `tolist` and
  `get` of an array count as reads.
* Only functions that CuPy has under the same name exist here (`test_strict_cupy.py` compares them
  if CuPy is installed).
* A captured stream (CUDA graph) runs nothing. Its results are nonsense until the graph is launched,
  and reads and uploads inside it raise errors. So a host number that was recorded by mistake shows
  as a wrong result.
* `RawModule` compiles the CUDA source for the host (`cuda_on_host.py`) and runs it thread by
  thread.
"""

import builtins
import contextlib
import ctypes
import operator
from types import SimpleNamespace

from minimtp.backend import numpy as np

float16, float32, float64 = np.float16, np.float32, np.float64
int8, int16, int32, int64, uint8, uint16, uint32, uint64, bool_ = (
    np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.bool_
)  # fmt: skip
inf, nan, pi, newaxis = np.inf, np.nan, np.pi, None

SCALARS = (bool, int, float, complex, np.generic)
traffic = SimpleNamespace(reads=0, uploads=0, launches=0)
_capture: "list | None" = None  # the operations of the stream that is being captured


class Refused(TypeError):
    """Raised for operations that CuPy rejects, too."""


class CaptureError(RuntimeError):
    """Raised for operations that are impossible while a stream is captured."""


def _read(array: "ndarray") -> np.ndarray:
    if _capture is not None:
        raise CaptureError("a read of the device while a stream is captured")
    traffic.reads += 1
    return array._data


def _unwrap(value: object) -> object:
    """Return the NumPy array of a device array, or a number unchanged. Reject host arrays."""
    if isinstance(value, ndarray):
        return value._data
    if isinstance(value, np.ndarray):
        raise Refused(
            "Unsupported type <class 'numpy.ndarray'>: a host array beside a device array"
        )
    if isinstance(value, (list, tuple)):
        return type(value)(_unwrap(member) for member in value)
    return value


def _nonsense(data: np.ndarray) -> None:
    data[...] = (
        np.nan
        if data.dtype.kind in "fc"
        else np.iinfo(data.dtype).max
        if data.dtype.kind in "iu"
        else 1
    )


def _run(function, *arguments, writes=(), trial=None, **options):
    """Run function(*arguments) on the NumPy arrays and wrap its result.

    writes: device arrays that the function changes.
    trial: a function whose result has the same shape. It runs instead while a stream is captured,
    because then the arguments hold nonsense.
    """
    host = [_unwrap(argument) for argument in arguments]
    named = {name: _unwrap(option) for name, option in options.items()}
    inputs = [a for a in (*_flat(host), *named.values()) if isinstance(a, np.ndarray)]
    if _capture is not None and writes:
        _capture.append(lambda: function(*host, **named))
        for array in writes:
            _nonsense(array._data)
        return None
    with np.errstate(all="ignore"):
        result = (function if _capture is None else trial or function)(*host, **named)
    if writes:
        traffic.launches += 1
        return None
    if not isinstance(result, np.ndarray):
        result = np.asarray(result)
    view = builtins.any(np.may_share_memory(result, array) for array in inputs)
    if not view:
        traffic.launches += 1
        if _capture is not None:

            def replay():
                with np.errstate(all="ignore"):
                    result[...] = function(*host, **named)

            _capture.append(replay)
            _nonsense(result)
    return ndarray(result)


def _flat(values):
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _with_out(function):
    """Return the function with an optional argument `out`, as in a ufunc."""

    def call(*arguments, out=None, **options):
        if out is None:
            return _run(function, *arguments, **options)
        _run(
            lambda *host, **named: function(*host[:-1], out=host[-1], **named),
            *arguments,
            out,
            writes=(out,),
            **options,
        )
        return out

    return call


def _binary(function, swapped=False):
    def method(self, other):
        if not isinstance(other, (ndarray, *SCALARS)):
            if isinstance(other, np.ndarray):
                raise Refused(
                    "Unsupported type <class 'numpy.ndarray'>: a host array beside a device array"
                )
            return NotImplemented
        return _run(function, other, self) if swapped else _run(function, self, other)

    return method


def _inplace(function):
    def method(self, other):
        if not isinstance(other, (ndarray, *SCALARS)):
            raise Refused(f"Unsupported type {type(other)}")
        _run(function, self, other, writes=(self,))
        return self

    return method


def _index(index):
    """Return the index for NumPy. Lists and host arrays are rejected, because CuPy uploads them."""
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, (list, np.ndarray)) and np.ndim(part):
            raise Refused(
                "an index of lists or host arrays is an upload, so move it to the device first"
            )
        if isinstance(part, slice) and builtins.any(
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
        return _read(self).copy()

    def item(self, *index):
        return _read(self).item(*index)

    def tolist(self):
        return _read(self).tolist()

    def __float__(self):
        return float(_read(self))

    def __int__(self):
        return int(_read(self))

    def __bool__(self):
        return bool(_read(self))

    # ------------------------------------------------------------ elements

    def __getitem__(self, index):
        host = _index(index)
        return _run(
            lambda data, *_: data[host],
            self,
            *_arrays_in(index),
            trial=lambda data, *_: data[_anywhere(host)],
        )

    def __setitem__(self, index, value):
        if not isinstance(value, (ndarray, *SCALARS)):
            raise Refused(f"{type(value)} cannot be assigned to elements of a device array")
        host = _index(index)

        def assign(data, new, *_):
            data[host] = new

        _run(assign, self, value, *_arrays_in(index), writes=(self,))

    def __iter__(self):
        return (self[i] for i in range(len(self)))


def _anywhere(host):
    """Return an index of the same form that is within bounds."""
    if isinstance(host, tuple):
        return tuple(map(_anywhere, host))
    return np.zeros_like(host) if isinstance(host, np.ndarray) and host.dtype.kind in "iu" else host


def _arrays_in(index):
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
    setattr(ndarray, f"__{_name}__", lambda self, name=_name: _run(getattr(operator, name), self))
for _name in (
    "all", "any", "argmax", "argmin", "argsort", "astype", "copy", "cumsum", "dot", "max", "mean",
    "min", "prod", "ravel", "repeat", "reshape", "searchsorted", "squeeze", "sum", "swapaxes",
    "take", "transpose",
):  # fmt: skip
    setattr(
        ndarray,
        _name,
        lambda self, *a, name=_name, **o: _run(
            lambda d, *b, **p: getattr(d, name)(*b, **p), self, *a, **o
        ),
    )


def _fill(self, value):
    _run(lambda data, new: data.fill(new), self, value, writes=(self,))


ndarray.fill = _fill


def _view(self, dtype):
    if np.dtype(dtype).itemsize != self.itemsize and not self.flags.c_contiguous:
        raise Refused("To change to a dtype of a different size, the array must be C-contiguous")
    return _run(lambda data: data.view(dtype), self)


ndarray.view = _view

# ------------------------------------------------------------ functions

for _name in (
    "abs", "add", "ceil", "cos", "divide", "exp", "expm1", "floor", "greater", "isfinite", "isnan",
    "less", "log", "log1p", "logical_and", "logical_not", "logical_or", "maximum", "minimum",
    "multiply", "negative", "rint", "sign", "sin", "sqrt", "square", "subtract", "tanh", "trunc",
    "dot", "matmul", "cumsum", "cumprod", "clip",
):  # fmt: skip
    globals()[_name] = _with_out(getattr(np, _name))
for _name in (
    "all", "any", "argmax", "argmin", "argsort", "array_equal", "ascontiguousarray", "broadcast_to",
    "concatenate", "count_nonzero", "diff", "expand_dims", "flip", "max", "mean", "min", "moveaxis",
    "ravel", "repeat", "reshape", "searchsorted", "sort", "split", "squeeze", "stack", "sum",
    "swapaxes", "take", "take_along_axis", "tile", "transpose", "tril", "triu", "unique", "where",
    "full_like", "zeros_like", "ones_like", "empty_like", "einsum", "outer", "diag", "prod",
    "diagonal", "kron",
):  # fmt: skip
    globals()[_name] = lambda *a, name=_name, **o: _run(getattr(np, name), *a, **o)


def _joining(join):
    """Count an upload if more than 8 arrays are joined, because CuPy uploads their addresses."""

    def call(arrays, *others, **options):
        arrays = list(arrays)
        if len(arrays) > 8:
            if _capture is not None:
                raise CaptureError("an upload of the arrays' addresses while a stream is captured")
            traffic.uploads += 1
        return join(arrays, *others, **options)

    return call


concatenate, stack = _joining(concatenate), _joining(stack)  # noqa: F821
for _name in ("zeros", "ones", "full", "arange", "eye", "linspace", "identity"):
    globals()[_name] = lambda *a, name=_name, **o: _run(getattr(np, name), *a, **o)


def _add_at(array, index, values):
    def at(data, new, *_):
        np.add.at(data, host, new)

    host = _index(index)
    _run(at, array, values, *_arrays_in(index), writes=(array,))


globals()["add"].at = _add_at


def empty(shape, dtype=float, order="C"):
    """Return an array full of nonsense, so reading an element that was never written shows."""
    result = np.empty(shape, dtype, order)
    _nonsense(result)
    return ndarray(result)


def empty_like(array, dtype=None, **options):  # noqa: F811
    result = np.empty_like(_unwrap(array), dtype, **options)
    _nonsense(result)
    return ndarray(result)


def array(value, dtype=None, copy=True, **options):
    """Return a copy on the device. Copying host data is an upload."""
    if isinstance(value, ndarray):
        return _run(lambda data: np.array(data, dtype, **options), value)
    if isinstance(value, (list, tuple)) and builtins.any(
        isinstance(member, ndarray) for member in _flat(value)
    ):
        return stack([array(member, dtype) for member in value])  # noqa: F821
    if _capture is not None:
        raise CaptureError("an upload while a stream is captured")
    traffic.uploads += 1
    return ndarray(np.array(value, dtype, **options))


def asarray(value, dtype=None, **options):
    if isinstance(value, ndarray):
        return value if dtype is None or value.dtype == np.dtype(dtype) else value.astype(dtype)
    return array(value, dtype, **options)


def copyto(target, source, casting="same_kind", where=None):
    if where is None:
        _run(lambda data, new: np.copyto(data, new, casting), target, source, writes=(target,))
    else:
        _run(
            lambda data, new, mask: np.copyto(data, new, casting, where=mask),
            target,
            source,
            where,
            writes=(target,),
        )


def array_split(array, sections, axis=0):
    return [ndarray(part) for part in np.array_split(_unwrap(array), sections, axis)]


def asnumpy(value):
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


def result_type(*values):
    return np.result_type(*(_unwrap(value) for value in values))


# ------------------------------------------------------------ the device


class _Graph:
    def __init__(self, operations: list) -> None:
        self._operations = operations

    def launch(self, stream=None) -> None:
        traffic.launches += 1
        for operation in self._operations:
            operation()

    def upload(self, stream=None) -> None:
        pass


class _Stream:
    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def begin_capture(self, mode=None):
        global _capture
        if _capture is not None:
            raise CaptureError("another stream is already being captured")
        _capture = []

    def end_capture(self):
        global _capture
        operations, _capture = _capture, None
        return _Graph(operations)

    def synchronize(self):
        traffic.reads += 1


class _Device:
    id, compute_capability = 0, "90"

    def __init__(self, number=0) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def synchronize(self):
        traffic.reads += 1


class _Event:
    def __init__(self, *arguments, **options) -> None:
        pass

    def record(self, stream=None):
        pass

    def synchronize(self):
        traffic.reads += 1


class _MemoryPool:
    def __init__(self, allocator=None) -> None:
        self.limit = 0

    def malloc(self, size):
        raise AssertionError("arrays of the stand-in are allocated by NumPy")

    def total_bytes(self):
        return 0

    used_bytes = total_bytes

    def free_all_blocks(self, stream=None):
        pass

    def set_limit(self, size=None, fraction=None):
        self.limit = size or fraction

    def get_limit(self):
        return self.limit


_pool = _MemoryPool()


def get_default_memory_pool():
    return _pool


def get_default_pinned_memory_pool():
    return _pool


class RawModule:
    """A CUDA source compiled for the host."""

    def __init__(
        self, *, code=None, path=None, options=(), backend="nvrtc", name_expressions=None, **others
    ) -> None:
        from tests import cuda_on_host

        if not isinstance(options, tuple) or not builtins.all(
            isinstance(option, str) for option in options
        ):
            raise TypeError("options must be a tuple of strings")
        self._library = cuda_on_host.compiled(code, options)

    def get_function(self, name):
        return _Kernel(self._library, name)


class _Kernel:
    """A kernel, launched as kernel(grid, block, arguments)."""

    def __init__(self, library, name: str) -> None:
        self._library, self._name = library, name
        if not library.has(name):
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")

    def __call__(self, grid, block, args, *, shared_mem=0):
        def launch():
            self._library.launch(self._name, grid, block, pointers, shared_mem)

        pointers = [a._data if isinstance(a, ndarray) else a for a in args]
        for argument in args:
            if isinstance(argument, np.ndarray):
                raise Refused("a kernel does not accept host arrays")
        self._library.check(self._name, grid, block, pointers, shared_mem)
        traffic.launches += 1
        if _capture is None:
            launch()
        else:
            _capture.append(launch)


class _Cublas:
    """The only cuBLAS function in use. It rejects the arguments that cuBLAS rejects."""

    # (type of the operands, type of the arithmetic); results are float32
    ALLOWED = {(0, 68), (0, 77), (2, 68), (14, 68)}

    def __init__(self) -> None:
        self.math_mode = 0

    def getMathMode(self, handle):
        return self.math_mode

    def setMathMode(self, handle, mode):
        self.math_mode = mode

    def gemmEx(
        self,
        handle,
        flip_a,
        flip_b,
        m,
        n,
        k,
        alpha,
        a,
        kind_a,
        lda,
        b,
        kind_b,
        ldb,
        beta,
        c,
        kind_c,
        ldc,
        compute,
        algo,
    ):
        if kind_a != kind_b or kind_c != 0 or (kind_a, compute) not in self.ALLOWED or algo != -1:
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        if _capture is not None:
            raise CaptureError("the stand-in does not record cuBLAS")
        first = self._columns(a, kind_a, *((k, m) if flip_a else (m, k)), lda)
        second = self._columns(b, kind_b, *((n, k) if flip_b else (k, n)), ldb)
        if compute == 77:
            first, second = (self._ten_bits(x) for x in (first, second))
        ones, zeros = (self._columns(place, 0, 1, 1, 1) for place in (alpha, beta))
        assert (ones[0, 0], zeros[0, 0]) == (1, 0)
        traffic.launches += 1
        with np.errstate(all="ignore"):
            self._columns(c, 0, m, n, ldc)[...] = (first.T if flip_a else first) @ (
                second.T if flip_b else second
            )

    @staticmethod
    def _columns(place, kind, rows, columns, stride):
        """Return the matrix at an address. Its contiguous columns are `stride` numbers apart."""
        if stride < rows:
            raise RuntimeError("CUBLAS_STATUS_INVALID_VALUE")
        dtype = np.dtype({0: np.float32, 2: np.float16, 14: np.uint16}[kind])
        memory = (ctypes.c_char * ((stride * (columns - 1) + rows) * dtype.itemsize)).from_address(
            place
        )
        strides = dtype.itemsize, stride * dtype.itemsize
        found = np.ndarray((rows, columns), dtype, memory, strides=strides)
        if kind == 14:
            return (found.astype(np.uint32) << 16).view(np.float32)
        return found.astype(np.float32) if kind == 2 else found

    @staticmethod
    def _ten_bits(x):
        """Return x rounded to the 10 explicit mantissa bits of TF32."""
        return ((np.ascontiguousarray(x).view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


@contextlib.contextmanager
def _using_allocator(allocator=None):
    yield


cuda = SimpleNamespace(
    Stream=_Stream, Event=_Event, Graph=_Graph, MemoryPool=_MemoryPool,
    using_allocator=_using_allocator, Device=_Device,
    device=SimpleNamespace(get_cublas_handle=lambda: 1), cublas=_Cublas(),
    get_current_stream=_Stream, get_elapsed_time=lambda start, end: 1.0, runtime=SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"strict stand-in", "multiProcessorCount": 4,
        "l2CacheSize": 1 << 16}, getDeviceCount=lambda: 1, memGetInfo=lambda: (1 << 30, 1 << 30),
        runtimeGetVersion=lambda: 13000,
    ),
)  # fmt: skip
__version__ = "0 (stand-in)"
