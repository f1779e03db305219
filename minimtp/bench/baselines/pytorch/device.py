"""PyTorch on the CPU or a GPU: whether it is usable, the device's own clock, and CUDA graphs."""

import statistics
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from minimtp import extras

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")


def torch_on(device: str) -> ModuleType:
    """Import PyTorch for "cpu" or "cuda".

    Raises ImportError if PyTorch cannot use the device. Its message completes "PyTorch ...".
    """
    torch, obstacle = extras.find("torch")
    if torch is None:
        raise ImportError(obstacle)
    if device == "cuda" and not torch.cuda.is_available():
        raise ImportError(f"cannot be used (version {torch.__version__} has no CUDA here)")
    return torch


def elapsed(torch: ModuleType, run: Callable[[], object]) -> float:
    """Return the GPU seconds from before run() until everything it launched has finished."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def median_elapsed(torch: ModuleType, run: Callable[[], object], times: int) -> float:
    """Return the median of `times` measurements after one warm-up."""
    run()
    return statistics.median(elapsed(torch, run) for _ in range(times))


def on_stream(torch: ModuleType, stream: "torch.cuda.Stream", run: Callable[[], Result]) -> Result:
    """Call run() on another stream, ordered with the current one.

    PyTorch requires this for the steps before a recording.
    """
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = run()
    torch.cuda.current_stream().wait_stream(stream)
    return result


def recorded(torch: ModuleType, run: Callable[[], object]) -> Callable[[], object]:
    """Record what run() launches as a CUDA graph and return its replay. Nothing is computed yet.

    run() must have been called before.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def captured(torch: ModuleType, run: Callable[[], object]) -> Callable[[], object]:
    """Warm up with three calls of run(), as PyTorch requires, then record it."""

    def warm_up() -> None:
        for _ in range(3):
            run()

    on_stream(torch, torch.cuda.Stream(), warm_up)
    return recorded(torch, run)
