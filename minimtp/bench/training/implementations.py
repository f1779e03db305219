"""The implementations that `bench train` compares, by name.

Each trains the same recipe and has the same methods: `run` takes training steps, `elapsed` measures
the time by the device's clock, and `release` frees the memory that only a step needs.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol

import minimtp
from minimtp import kernels, machine
from minimtp.backend import choose_device, empty_gpu_pool
from minimtp.backend import numpy as np
from minimtp.bench import gpu
from minimtp.bench.baselines.pytorch.training import (
    CompiledTorchTrainer,
    GraphedTorchTrainer,
    TorchTrainer,
)
from minimtp.training.data.batches import Batches
from minimtp.training.presets import with_heads
from minimtp.training.recipe import Recipe
from minimtp.training.trainer import Trainer

EXTRA_TOKENS = 3  # tokens of a batch that only the implementation with heads reads


class Implementation(Protocol):
    """A model in training. `about` describes it for the report."""

    about: dict[str, object]

    def run(self, batches: Sequence[np.ndarray]) -> list[float]:
        """Take a step on each batch (B, T + 1). Return the mean losses in nats before each step."""

    def elapsed(self, run: Callable[[], object]) -> float | None:
        """Call run(); return the GPU's own seconds, or None on the CPU."""

    def release(self) -> None:
        """Free the GPU memory that only a step needs."""


class Minimtp:
    """The recipe's model, trained as `minimtp train` does it."""

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        self.device = choose_device(device)
        name, reason = kernels.describe(self.device.name)
        self.trainer = Trainer(recipe, None, self.device, threads)
        self.about = {
            "title": f"minimtp {minimtp.__version__}",
            "threads": self.trainer.shards,
            "how": f"kernels {name}: {reason}",
            "versions": machine.versions(),
        }

    def run(self, batches: Sequence[np.ndarray]) -> list[float]:
        losses = []
        with closing(Batches(batches.__getitem__, self.device, len(batches))) as source:
            for step in range(len(batches)):
                by_head, *_ = self.trainer.advance(source.at(step))
                losses.append(float(by_head[0]))
        return losses

    def elapsed(self, run: Callable[[], object]) -> float | None:
        if self.device.name != "cpu":
            return gpu.elapsed(self.device.xp, run)
        run()
        return None

    def release(self) -> None:
        empty_gpu_pool()


class MinimtpQAT(Minimtp):
    """The same model in quantization-aware training from the first step on."""

    name = "minimtp QAT"

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        super().__init__(replace(recipe, quantization="qat"), threads, device)
        self.about["title"] = self.name


class MinimtpLearnedSteps(Minimtp):
    """The same model in quantization-aware training that also learns the steps of the groups."""

    name = "minimtp QAT, learned steps"

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        learned = replace(recipe, quantization="qat", weight_scales="learned")
        super().__init__(learned, threads, device)
        self.about["title"] = self.name


class MinimtpWithHeads(Minimtp):
    """The same trunk with heads for three more tokens, trained as `minimtp compare` trains heads:
    for most steps, their losses do not reach the trunk."""

    name = "minimtp MTP, 4 tokens"

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        heads = replace(with_heads(recipe), draft_depth=EXTRA_TOKENS)
        super().__init__(heads, threads, device)
        self.about |= {"title": self.name, "extra_tokens": EXTRA_TOKENS}


OURS = "minimtp"
VARIANTS = {"qat": MinimtpQAT, "learned": MinimtpLearnedSteps, "heads": MinimtpWithHeads}
BASELINES = {  # by device
    "cpu": {"torch": TorchTrainer, "torch.compile": CompiledTorchTrainer},
    "cuda": {"torch": TorchTrainer, "torch.graph": GraphedTorchTrainer},
}
OTHERS = VARIANTS | BASELINES["cpu"] | BASELINES["cuda"]
