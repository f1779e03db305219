"""The device of the stand-in: streams, which can be captured as graphs, events and memory."""

from tests.strict_cupy import recording
from tests.strict_cupy.recording import CaptureError


class Graph:
    def __init__(self, operations: list) -> None:
        self._operations = operations

    def launch(self, stream=None) -> None:
        recording.traffic.launches += 1
        for operation in self._operations:
            operation()

    def upload(self, stream=None) -> None:
        pass


class Stream:
    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def begin_capture(self, mode=None):
        if recording.capture is not None:
            raise CaptureError("another stream is already being captured")
        recording.capture = []

    def end_capture(self):
        operations, recording.capture = recording.capture, None
        return Graph(operations)

    def synchronize(self):
        recording.traffic.reads += 1


class Device:
    id, compute_capability = 0, "90"

    def __init__(self, number=0) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def synchronize(self):
        recording.traffic.reads += 1


class Event:
    def __init__(self, *arguments, **options) -> None:
        pass

    def record(self, stream=None):
        pass

    def synchronize(self):
        recording.traffic.reads += 1


class MemoryPool:
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


_pool = MemoryPool()


def get_default_memory_pool():
    return _pool


def get_default_pinned_memory_pool():
    return _pool
