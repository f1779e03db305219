"""One batch on several threads: replicas of a model that share parameters and sum their gradients.

Matrix products, ufuncs and compiled kernels release the interpreter's lock. So one Python thread
per core, with one BLAS thread each, keeps all cores busy, in plain NumPy too. Each replica gets one
shard of the batch. Gradients are added in a fixed order, so a result depends on the number of
replicas but never on timing.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from minimtp.backend import Array
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import Module, replicate

PART = 1 << 17  # numbers; for fewer, starting the threads takes longer than the work


class Replicas:
    """`model` and count - 1 replicas of it, each with its own gradients and its own thread."""

    def __init__(self, model: Module, flat: FlatParameters, count: int) -> None:
        self.models = [model, *(replicate(model) for _ in range(count - 1))]
        self.gradients = [
            flat.gradients,
            *(flat.new_gradients(replica) for replica in self.models[1:]),
        ]
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="shard") if count > 1 else None

    def run(self, function: Callable[[Module, Any], Any], shards: Sequence[Any]) -> list[Any]:
        """Return function(replica, shard) for every shard, at most one per replica. Sums the
        gradients into `flat.gradients`.

        Raises ValueError if there are more shards than replicas. Errors of `function` are passed
        on.
        """
        if len(shards) > len(self.models):
            raise ValueError(f"{len(shards)} shards for {len(self.models)} replicas")
        size = len(self.gradients[0])
        for gradients in self.gradients:
            self.in_parts(size, partial(_clear, gradients))
        if self.threads is None:
            return [function(self.models[0], shard) for shard in shards]
        results = list(self.threads.map(function, self.models, shards))
        for gradients in self.gradients[1 : len(shards)]:
            self.in_parts(size, partial(_add, self.gradients[0], gradients))
        return results

    def in_parts(self, size: int, function: Callable[[slice], None]) -> None:
        """Call function(part) for parts of range(size), a part per thread. The threads work at the
        same time.
        """
        count = len(self.models) if self.threads is not None and size > PART else 1
        if count == 1:
            function(slice(0, size))
            return
        bounds = [size * i // count for i in range(count + 1)]
        list(self.threads.map(function, map(slice, bounds, bounds[1:])))

    def close(self) -> None:
        """End the threads."""
        if self.threads is not None:
            self.threads.shutdown()


def _clear(gradients: Array, part: slice) -> None:
    gradients[part] = 0


def _add(total: Array, gradients: Array, part: slice) -> None:
    total[part] += gradients[part]
