"""One training step, on all cores.

    tokens (B, T + 1 + K)  ->  shards of rows, one a thread  ->  gradients summed in the shards' order  ->  AdamW

Everything a step depends on is either carried from step to step (parameters, moments, the step itself) or a pure function
of the step (batch, learning rate, head weights, whether weights are rounded yet). What is carried is what a checkpoint holds,
so a run can stop and go on, or branch, between any two steps.

A floating-point sum depends on its order, so bits depend on how many shards there are. The number is kept with the run.
"""

from math import isfinite

from minimtp.backend import Array, Device, array_module, keep_freed_memory, to_device
from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import freeze, map_parameters
from minimtp.engine.optim import AdamW
from minimtp.engine.precision import matmul_precision
from minimtp.engine.replicas import Replicas
from minimtp.model.loss import accumulate_gradients
from minimtp.training import schedule
from minimtp.training.build import Model, build_model, fill, quantization_spec
from minimtp.training.checkpoint import Checkpoint
from minimtp.training.data.corpus import Corpus
from minimtp.training.distributed import Alone
from minimtp.training.loss_scale import LossScale
from minimtp.training.recipe import Recipe


class Trainer:
    """A model in training: parameters, optimizer and shards, and the step they have reached.

    at: where to go on from, or None for fresh weights. What it lacks is an error, or fresh too if it is `partial`.
    teacher: a model on the device, for recipes with a distill_weight. team: the processes that share each batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        at: Checkpoint | None,
        device: Device,
        shards: int,
        partial: bool = False,
        teacher: Model | None = None,
        team: Alone | None = None,
    ) -> None:
        keep_freed_memory()
        self.recipe, self.device, self.teacher, self.team = recipe, device, teacher, team or Alone()
        self.step = at.step if at else 0
        self.shards = min(shards, recipe.batch_size // self.team.size)
        self.quantized = False
        self.model = build_model(recipe, np.random.default_rng(recipe.seed))
        fresh = (
            {name: parameter.data for name, parameter in self.model.named_parameters()}
            if partial
            else {}
        )
        if at:
            fill(self.model, fresh | at.parameters, "the checkpoint")
        map_parameters(self.model, lambda array: to_device(array, device))
        if recipe.freeze_trunk:
            freeze(self.model.trunk)
        self.flat = FlatParameters(
            self.model, apart=("heads",)
        )  # their gradient never scales down the trunk's
        self.optimizer = AdamW(
            self.flat, recipe.beta1, recipe.beta2, weight_decay=recipe.weight_decay
        )
        self.optimizer.load_state(at.optimizer if at else {}, self.step)
        self.loss_scale = LossScale(recipe.precision, at.state.get("loss_scale") if at else None)
        self.average = None
        if recipe.ema_decay:
            from minimtp.training.average import WeightAverage

            self.average = WeightAverage(self.flat, recipe.ema_decay, at.optimizer if at else {})
        self.replicas = Replicas(self.model, self.flat, self.shards)

    def advance(self, tokens: Array) -> tuple[np.ndarray, float, float]:
        """One step on a batch (B, T + 1 + K) on the host or the device: mean losses (1 + K,) in nats, the learning rate, the
        gradient's norm."""
        self._quantize_when_due()
        weights = np.array(schedule.head_weights(self.recipe, self.step))
        detached = schedule.heads_are_detached(self.recipe, self.step)
        positions = slice(self.step % self.recipe.head_stride, None, self.recipe.head_stride)
        split = array_module(tokens).array_split
        rows = split(tokens, self.team.size)[self.team.rank]
        shards = [to_device(shard, self.device) for shard in split(rows, self.shards)]

        def losses_of(model: Model, shard: Array) -> np.ndarray:
            share = len(shard) / len(tokens)
            losses = accumulate_gradients(
                model, shard, weights, share * self.loss_scale.value, head_positions=positions, detached=detached,
                head_targets=self.recipe.head_targets, teacher=self.teacher,
                distill_weight=self.recipe.distill_weight,
            )  # fmt: skip
            return losses * share

        rate = schedule.learning_rate(self.recipe, self.step)
        while True:
            with matmul_precision(self.recipe.precision, self.device):
                losses = self.team.sum_losses(
                    lambda: sum(self.replicas.run(losses_of, shards)), 1 + len(weights)
                )
            self.team.sum_in_place(self.flat.gradients)
            norm = self.optimizer.step(
                rate, self.recipe.max_gradient_norm or None, self.loss_scale.value
            )
            if isfinite(norm) or not self.loss_scale.lower():
                break
        self.loss_scale.stepped()
        self.step += 1
        if self.average:
            self.average.follow(self.step)
            if self.step == self.recipe.steps:
                self.average.put_in_place()
        return losses, rate, norm

    def close(self) -> None:
        """End the threads."""
        self.replicas.close()

    def at_this_step(self, corpus: Corpus, state: dict[str, object]) -> Checkpoint:
        """A checkpoint of now; its arrays are views, to be written before the next step."""
        return Checkpoint(
            recipe=self.recipe,
            parameters={name: parameter.data for name, parameter in self.model.named_parameters()},
            optimizer=self.optimizer.state() | (self.average.state() if self.average else {}),
            step=self.step, tokens=self.step * self.recipe.batch_size * self.recipe.context_length, corpus=corpus.to_dict(),
            tokenizer=corpus.tokenizer.to_dict(), state=state | self.loss_scale.state(),
        )  # fmt: skip

    def _quantize_when_due(self) -> None:
        first = self.recipe.first_quantized_step
        if first is None or self.step < first or self.quantized:
            return
        from minimtp.quant.qat.modules import prepare

        self.quantized = True
        before = self.flat.data.copy() if self.average else None
        self.model = prepare(self.model, quantization_spec(self.recipe))
        if self.average:
            self.average.start_anew(before)
        self.replicas.close()
        self.replicas = Replicas(self.model, self.flat, self.shards)
