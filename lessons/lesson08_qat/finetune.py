"""Train copies of a model a little further, on the same text in the same order."""

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
from minimtp.model.loss import Objective, accumulate_gradients
from minimtp.model.transformer import Transformer
from minimtp.quant.grids import grid_named
from minimtp.quant.qat.prepare import add_learned_step_parameters, prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.data.corpus import Corpus
from minimtp.training.recipe import Recipe
from minimtp.training.schedule import learning_rate


def grid_name(bits: int) -> str:
    return f"int{bits}-ggml-signed-g32"


class Finetuner:
    """Trains copies of one model with the budget of a recipe."""

    def __init__(self, model: Transformer, corpus: Corpus, device: Device, recipe: Recipe) -> None:
        self.model = model
        self.corpus = corpus
        self.device = device
        self.recipe = recipe

    def train(
        self,
        bits: int | None,
        *,
        scales: str = "grid",
        distill: float = 0.0,
        after_step: Callable[[Transformer], None] | None = None,
    ) -> Transformer:
        """Return a trained copy, with its matrices on a grid of `bits` bits, or in float32 if None.

        scales: "grid", or "learned" for LSQ. distill: the fraction of the loss that follows the
        teacher.
        after_step: called with the model after each step.
        """
        recipe, model = self.recipe, self._copy(bits, scales)
        flat = FlatParameters(model)
        optimizer = AdamW(flat, recipe.beta1, recipe.beta2, weight_decay=recipe.weight_decay)
        on_cpu = self.device.name == "cpu"
        replicas = Replicas(model, flat, min(available_cores(), recipe.batch_size) if on_cpu else 1)

        def backward(model: Transformer, tokens: np.ndarray) -> None:
            share = len(tokens) / recipe.batch_size
            accumulate_gradients(
                model, tokens, Objective(teacher=self.model, distill_weight=distill), share
            )

        teacher, learned = ", teacher" * (distill > 0), ", LSQ" * (scales == "learned")
        for step in tqdm(
            range(recipe.steps), desc=f"{bits or 32} bits{teacher}{learned}", disable=None
        ):
            tokens = self.corpus.batch(
                step,
                seed=recipe.seed + 1,
                batch_size=recipe.batch_size,
                sequence_length=recipe.context_length,
            )  # (B, T + 1)
            shards = np.array_split(tokens, len(replicas.models))
            replicas.run(backward, [to_device(shard, self.device) for shard in shards])
            optimizer.step(learning_rate(recipe, step), recipe.max_gradient_norm)
            if after_step:
                after_step(model)
        replicas.close()
        return model

    def _copy(self, bits: int | None, scales: str) -> Transformer:
        """Return a copy with its own arrays, prepared for quantization-aware training if `bits`."""
        model = replicate(self.model)
        for parameter in model.parameters():
            parameter.data = array_module(parameter.data).array(parameter.data)
        if not bits:
            return model
        spec = QuantizationSpec(weights=grid_name(bits), activations="none", scales=scales)
        if scales == "learned":
            add_learned_step_parameters(model, spec)
        return prepare_qat(model, spec)


def round_after_step(bits: int) -> Callable[[Transformer], None]:
    """Return a function that rounds the weights themselves after a step, which is wrong."""
    grid = grid_named(grid_name(bits))

    def round_weights(model: Transformer) -> None:
        for _, module in model.named_modules():
            if isinstance(module, Linear):
                module.weight.data[...] = grid.fake_quantize(module.weight.data)

    return round_weights


class WeightHistory:
    """Records some master weights, divided by their scales, and their codes after every step."""

    def __init__(self, bits: int, rows: int = 16) -> None:
        self.grid = grid_named(grid_name(bits))
        self.rows = rows
        self.masters: list[np.ndarray] = []
        self.codes: list[np.ndarray] = []

    def __call__(self, model: Transformer) -> None:
        weights = model.blocks[0].attention.qkv.weight.data[: self.rows]
        codes, scales = map(to_numpy, self.grid.encode(weights))
        scales = np.repeat(scales, self.grid.group_size, axis=1)
        self.masters.append((to_numpy(weights) / scales).reshape(-1))
        self.codes.append(codes.reshape(-1))
