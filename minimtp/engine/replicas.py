"""One batch on several threads: replicas of a model that share parameters and sum their gradients.

Matrix products, ufuncs and compiled kernels release the interpreter's lock. So one Python thread
per core, with one BLAS thread each, keeps all cores busy, in plain NumPy too. Each replica gets one
shard of the batch. Gradients are added in a fixed order, so a result depends on the number of
replicas but never on timing.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import Module, replicate


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
        for gradients in self.gradients:
            gradients[...] = 0
        if self.threads is None:
            return [function(self.models[0], shard) for shard in shards]
        results = list(self.threads.map(function, self.models, shards))
        for gradients in self.gradients[1 : len(shards)]:
            self.gradients[0] += gradients
        return results

    def close(self) -> None:
        """End the threads."""
        if self.threads is not None:
            self.threads.shutdown()
