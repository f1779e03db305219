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

    recording.py   what is counted, and whether a stream is captured
    arrays.py      the array and its operators          functions.py   functions of arrays
    device.py      streams, events and memory           programs.py    CUDA sources and cuBLAS
"""

import contextlib
from types import SimpleNamespace

from minimtp.backend import numpy as np
from tests.strict_cupy import device as _device
from tests.strict_cupy import programs as _programs
from tests.strict_cupy.arrays import ndarray  # noqa: F401
from tests.strict_cupy.functions import *  # noqa: F403

float16, float32, float64 = np.float16, np.float32, np.float64
int8, int16, int32, int64, uint8, uint16, uint32, uint64, bool_ = (
    np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.bool_
)  # fmt: skip
inf, nan, pi, newaxis = np.inf, np.nan, np.pi, None
RawModule = _programs.RawModule
get_default_memory_pool = _device.get_default_memory_pool
get_default_pinned_memory_pool = _device.get_default_pinned_memory_pool


@contextlib.contextmanager
def _using_allocator(allocator=None):
    yield


cuda = SimpleNamespace(
    Stream=_device.Stream, Event=_device.Event, Graph=_device.Graph, MemoryPool=_device.MemoryPool,
    using_allocator=_using_allocator, Device=_device.Device,
    device=SimpleNamespace(get_cublas_handle=lambda: 1), cublas=_programs.Cublas(),
    get_current_stream=_device.Stream, get_elapsed_time=lambda start, end: 1.0,
    runtime=SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"strict stand-in", "multiProcessorCount": 4,
        "l2CacheSize": 1 << 16}, getDeviceCount=lambda: 1, memGetInfo=lambda: (1 << 30, 1 << 30),
        runtimeGetVersion=lambda: 13000,
    ),
)  # fmt: skip
__version__ = "0 (stand-in)"
