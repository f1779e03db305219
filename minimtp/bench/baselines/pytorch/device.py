"""PyTorch on the CPU or on a GPU: where it can be used, what it launches as a CUDA graph, and the
device's own time of it."""

import statistics
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

Result = TypeVar("Result")


def torch_on(device: str) -> ModuleType:
    """PyTorch, if it can use the device, "cpu" or "cuda". Raises ImportError, saying why, where it
    cannot."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ImportError(f"PyTorch {torch.__version__} has no CUDA here")
    return torch


def elapsed(torch: ModuleType, run: Callable[[], object]) -> float:
    """Seconds of the GPU from before run() to after all that it launched."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def median_elapsed(torch: ModuleType, run: Callable[[], object], times: int) -> float:
    """Median of so many; the first is not counted."""
    run()
    return statistics.median(elapsed(torch, run) for _ in range(times))


def beside(torch: ModuleType, stream: object, run: Callable[[], Result]) -> Result:
    """run() on another stream, in order with what this one does: how PyTorch asks for what comes
    before a recording."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = run()
    torch.cuda.current_stream().wait_stream(stream)
    return result


def recorded(torch: ModuleType, run: Callable[[], object]) -> Callable[[], object]:
    """What run() launches, as a CUDA graph to be replayed; nothing of it is computed yet. It must
    have run before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def captured(torch: ModuleType, run: Callable[[], object]) -> Callable[[], object]:
    """run() as a CUDA graph. It runs three times beforehand, as PyTorch asks."""

    def warm_up() -> None:
        for _ in range(3):
            run()

    beside(torch, torch.cuda.Stream(), warm_up)
    return recorded(torch, run)
