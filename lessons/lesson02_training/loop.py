"""The whole training loop: take a batch, compute its gradients, make a step, repeat."""

import math
from dataclasses import dataclass, field

from tqdm import tqdm

from lessons.lesson02_training.model import WindowModel
from minimtp.backend import Array, Device, array_module, to_device
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

BITS = 1 / math.log(2)  # bits per nat
EVALUATION_ROWS = 16  # windows per forward pass in evaluation


class Descent:
    """Gradient descent: subtract the gradient, multiplied by the learning rate.

    If the norm of the gradient is larger than `clip`, the gradient is first scaled to this norm.
    """

    def __init__(self, flat: FlatParameters) -> None:
        self.flat = flat

    def step(self, rate: float, clip: float | None = None) -> None:
        gradients = self.flat.gradients
        with np.errstate(over="ignore", invalid="ignore"):
            norm = float(gradients.dot(gradients)) ** 0.5
            scale = clip / norm if clip is not None and norm > clip else 1.0
            self.flat.data -= rate * scale * gradients


class UnclippedDescent(Descent):
    """Gradient descent with gradients of any size."""

    def step(self, rate: float, clip: float | None = None) -> None:
        super().step(rate)


@dataclass
class Trained:
    """A trained model and its losses in bits per byte.

    losses: the training loss of every step. held_out: (step, loss on held-out text) now and then.
    """

    model: WindowModel
    losses: list[float] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)

    @property
    def diverged(self) -> bool:
        return not all(map(math.isfinite, self.losses))


def learn(
    recipe: Recipe,
    corpus: Corpus,
    device: Device,
    sample: np.ndarray,
    optimizer: type = AdamW,
    seen: int = 8,
    units: int | None = None,
) -> Trained:
    """Train a new model. Stop early if the loss is NaN or infinite.

    sample: held-out tokens (N, T + 1) for evaluation during training.
    seen: the number of bytes that a prediction depends on. units: the number of hidden units, by
    default twice the recipe's hidden_size.
    """
    rng = np.random.default_rng(recipe.seed)
    units = units or 2 * recipe.hidden_size
    model = WindowModel(recipe.vocabulary_size, 32, units, seen, rng)
    map_parameters(model, lambda array: to_device(array, device))
    flat, result = FlatParameters(model), Trained(model)
    cores = min(available_cores(), recipe.batch_size) if device.name == "cpu" else 1
    replicas = Replicas(model, flat, cores)
    optimizer = optimizer(flat)
    name = f"{type(optimizer).__name__} {recipe.learning_rate:g}"
    size, length = recipe.batch_size, context_for(seen, recipe)
    for step in tqdm(range(recipe.steps), desc=name, disable=None):
        if step % max(1, recipe.steps // 20) == 0:
            result.held_out.append((step, bits_per_byte(model, sample, device)))
        tokens = corpus.batch(step, seed=recipe.seed, batch_size=size, sequence_length=length)
        nats = backward_on_cores(replicas, to_device(tokens, device))  # tokens (B, T + 1)
        result.losses.append(nats * BITS)
        if result.diverged:
            break
        optimizer.step(learning_rate(recipe, step), recipe.max_gradient_norm)
    replicas.close()
    result.held_out.append((step + 1, bits_per_byte(model, sample, device)))
    return result


def context_for(seen: int, recipe: Recipe) -> int:
    """Return the window length in bytes that gives every model equally many predictions.

    A model that sees 8 bytes gets the recipe's context length.
    """
    return recipe.context_length + seen - 8


def backward_on_cores(replicas: Replicas, tokens: Array) -> float:
    """Compute the gradients of the mean loss on (B, T + 1) tokens. Return this loss in nats.

    Each core computes the gradients of some rows of the batch, a shard, and they are added.
    """
    shards = array_module(tokens).array_split(tokens, len(replicas.models))
    size = len(tokens)
    return sum(replicas.run(lambda model, shard: backward(model, shard, len(shard) / size), shards))


def backward(model: WindowModel, tokens: Array, share: float) -> float:
    """Add the gradient of share * loss to the parameters' gradients. Return share * loss.

    share: the fraction of the batch that `tokens` holds. The result can be NaN or infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        loss = model.loss(tokens) * share
        loss.backward()
    return float(loss.data)


def bits_per_byte(model: WindowModel, windows: np.ndarray, device: Device) -> float:
    """Return the model's mean loss on (N, T + 1) tokens; NaN or infinite if the model diverged."""
    with no_grad(), np.errstate(over="ignore", invalid="ignore"):
        starts = range(0, len(windows), EVALUATION_ROWS)
        parts = [windows[start : start + EVALUATION_ROWS] for start in starts]
        nats = [float(model.loss(to_device(part, device)).data) * len(part) for part in parts]
    return sum(nats) / len(windows) * BITS
