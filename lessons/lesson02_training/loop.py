"""The training loop, whole: a batch, its gradients, a step, again."""

import math
from dataclasses import dataclass, field

from tqdm import tqdm

from lessons.lesson02_training.model import WindowModel
from minimtp.backend import Array, Device, to_device
from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import map_parameters
from minimtp.engine.optim import AdamW
from minimtp.engine.replicas import Replicas
from minimtp.engine.tensor import no_grad
from minimtp.machine import available_cores
from minimtp.training.data.corpus import Corpus
from minimtp.training.recipe import Recipe
from minimtp.training.schedule import learning_rate

BITS = 1 / math.log(2)  # a nat in bits
ROWS = 16  # windows that are evaluated at once


class Descent:
    """The plainest optimizer: every number goes downhill, in proportion to its slope."""

    def __init__(self, flat: FlatParameters) -> None:
        self.flat = flat

    def step(self, rate: float, clip: float | None = None) -> None:
        self.flat.data -= rate * self.flat.gradients


@dataclass
class Trained:
    """A model after training: `losses` of every step and `watched`, (step, loss on other text), in bits per byte."""

    model: WindowModel
    losses: list[float] = field(default_factory=list)
    watched: list[tuple[int, float]] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return all(map(math.isfinite, self.losses))


def learn(
    recipe: Recipe,
    corpus: Corpus,
    device: Device,
    watch: np.ndarray,
    optimizer: type = AdamW,
    seen: int = 8,
) -> Trained:
    """Train a fresh model, and stop early where the loss is no number any more.

    watch: (W, T + 1) tokens of which the loss is noted from time to time. seen: bytes that a prediction depends on.
    """
    model = WindowModel(
        recipe.vocabulary_size, 32, 2 * recipe.hidden_size, seen, np.random.default_rng(recipe.seed)
    )
    map_parameters(model, lambda array: to_device(array, device))
    flat, result = FlatParameters(model), Trained(model)
    replicas = Replicas(
        model, flat, min(available_cores(), recipe.batch_size) if device.name == "cpu" else 1
    )
    optimizer = optimizer(flat)
    for step in tqdm(
        range(recipe.steps),
        desc=f"{type(optimizer).__name__} {recipe.learning_rate:g}",
        disable=None,
    ):
        if step % max(1, recipe.steps // 20) == 0:
            result.watched.append((step, bits_per_byte(model, watch, device)))
        tokens = corpus.batch(
            step,
            seed=recipe.seed,
            batch_size=recipe.batch_size,
            context_length=context_for(seen, recipe),
        )  # (B, T + 1)
        shards = [
            to_device(shard, device) for shard in np.array_split(tokens, len(replicas.models))
        ]
        nats = replicas.run(
            lambda model, shard: backward(model, shard, len(shard) / recipe.batch_size), shards
        )
        result.losses.append(sum(nats) * BITS)
        if not result.alive:
            break
        optimizer.step(learning_rate(recipe, step), recipe.max_gradient_norm)
    replicas.close()
    result.watched.append((step + 1, bits_per_byte(model, watch, device)))
    return result


def context_for(seen: int, recipe: Recipe) -> int:
    """So many bytes hold as many predictions for a window of any size as the recipe's do for one of 8."""
    return recipe.context_length + seen - 8


def backward(model: WindowModel, tokens: Array, share: float) -> float:
    """Add the gradient of share * loss to the parameters' and return that; what overflows is for the caller to see."""
    with np.errstate(over="ignore", invalid="ignore"):
        loss = model.loss(tokens) * share
        loss.backward()
    return float(loss.data)


def bits_per_byte(model: WindowModel, windows: np.ndarray, device: Device) -> float:
    """The model's loss on (W, T + 1) tokens; no number for a model that has overflowed."""
    with no_grad(), np.errstate(over="ignore", invalid="ignore"):
        parts = [windows[start : start + ROWS] for start in range(0, len(windows), ROWS)]
        nats = [float(model.loss(to_device(part, device)).data) * len(part) for part in parts]
    return sum(nats) / len(windows) * BITS
