"""A finished model trained a little longer, in every way that this lesson compares, on the same text in the same order."""

from collections.abc import Callable

from tqdm import tqdm

from minimtp.backend import Device, array_module, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import replicate
from minimtp.engine.optim import AdamW
from minimtp.engine.replicas import Replicas
from minimtp.machine import available_cores
from minimtp.model.layers import Linear
from minimtp.model.loss import accumulate_gradients
from minimtp.model.transformer import Transformer
from minimtp.quant.grids.registry import grid_named
from minimtp.quant.qat.modules import QuantizationSpec, make_room_for_learned_steps, prepare
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate_model
from minimtp.training.recipe import Recipe
from minimtp.training.schedule import learning_rate


def grid_of(bits: int) -> str:
    return f"int{bits}-ggml-signed-g32"


class Tuner:
    """Trains copies of one model for the recipe's budget, and measures them on the same held-out text."""

    def __init__(self, model: Transformer, corpus: Corpus, device: Device, recipe: Recipe) -> None:
        self.model, self.corpus, self.device, self.recipe = model, corpus, device, recipe

    def bits_per_byte(self, model: Transformer) -> float:
        return evaluate_model(
            model, self.corpus, self.recipe.context_length, self.recipe.evaluation_tokens
        ).bits_per_byte

    def tuned(
        self,
        bits: int | None,
        *,
        scales: str = "grid",
        distill: float = 0.0,
        after_step: Callable[[Transformer], None] | None = None,
    ) -> Transformer:
        """A copy, trained on: its products on a grid of `bits` bits, or, with None, in full precision."""
        recipe, model = self.recipe, copied(self.model)
        if bits:
            spec = QuantizationSpec(weights=grid_of(bits), activations="none", scales=scales)
            if scales == "learned":
                make_room_for_learned_steps(model, spec)
            model = prepare(model, spec)
        flat = FlatParameters(model)
        optimizer = AdamW(flat, recipe.beta1, recipe.beta2, weight_decay=recipe.weight_decay)
        replicas = Replicas(
            model,
            flat,
            min(available_cores(), recipe.batch_size) if self.device.name == "cpu" else 1,
        )

        def backward(model: Transformer, tokens: np.ndarray) -> None:
            share = len(tokens) / recipe.batch_size
            accumulate_gradients(
                model, tokens, (), share, teacher=self.model, distill_weight=distill
            )

        name = (
            f"{bits or 32} bits"
            + (", a teacher" if distill else "")
            + (", learned steps" if scales == "learned" else "")
        )
        for step in tqdm(range(recipe.steps), desc=name, disable=None):
            tokens = self.corpus.batch(
                step,
                seed=recipe.seed + 1,
                batch_size=recipe.batch_size,
                context_length=recipe.context_length,
            )  # (B, T + 1)
            shards = [
                to_device(shard, self.device)
                for shard in np.array_split(tokens, len(replicas.models))
            ]
            replicas.run(backward, shards)
            optimizer.step(learning_rate(recipe, step), recipe.max_gradient_norm)
            if after_step:
                after_step(model)
        replicas.close()
        return model


def copied(model: Transformer) -> Transformer:
    """A second model with arrays of its own."""
    copy = replicate(model)
    for parameter in copy.parameters():
        parameter.data = array_module(parameter.data).array(parameter.data)
    return copy


def rounding_after_steps(bits: int) -> Callable[[Transformer], None]:
    """Wrong: the weights themselves are rounded after every step."""

    def round_all(model: Transformer) -> None:
        for _, module in model.named_modules():
            if isinstance(module, Linear):
                module.weight.data[...] = grid_named(grid_of(bits)).fake_quantize(
                    module.weight.data
                )

    return round_all


class Diary:
    """Writes down, after every step, some master weights, in steps of their groups, and the codes they are rounded to."""

    def __init__(self, bits: int, rows: int = 16) -> None:
        self.grid, self.rows, self.masters, self.codes = grid_named(grid_of(bits)), rows, [], []

    def __call__(self, model: Transformer) -> None:
        weights = model.blocks[0].attention.qkv.weight.data[: self.rows]
        codes, steps = map(to_numpy, self.grid.encode(weights))
        self.masters.append(
            (to_numpy(weights) / np.repeat(steps, self.grid.group_size, axis=1)).reshape(-1)
        )
        self.codes.append(codes.reshape(-1))
