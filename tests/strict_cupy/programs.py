"""Programs that the stand-in runs on the host: CUDA sources, and the products of cuBLAS."""

import ctypes

from minimtp.backend import numpy as np
from tests.helpers import cuda_on_host
from tests.strict_cupy import recording
from tests.strict_cupy.arrays import ndarray
from tests.strict_cupy.recording import CaptureError, Refused


class RawModule:
    """A CUDA source compiled for the host."""

    def __init__(
        self, *, code=None, path=None, options=(), backend="nvrtc", name_expressions=None, **others
    ) -> None:
        if not isinstance(options, tuple) or not all(isinstance(option, str) for option in options):
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
        recording.traffic.launches += 1
        if recording.capture is None:
            launch()
        else:
            recording.capture.append(launch)


class Cublas:
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
        if recording.capture is not None:
            raise CaptureError("the stand-in does not record cuBLAS")
        first = self._columns(a, kind_a, *((k, m) if flip_a else (m, k)), lda)
        second = self._columns(b, kind_b, *((n, k) if flip_b else (k, n)), ldb)
        if compute == 77:
            first, second = (self._ten_bits(x) for x in (first, second))
        ones, zeros = (self._columns(place, 0, 1, 1, 1) for place in (alpha, beta))
        assert (ones[0, 0], zeros[0, 0]) == (1, 0)
        recording.traffic.launches += 1
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
