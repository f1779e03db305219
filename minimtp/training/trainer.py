"""One training step, on all cores.

    tokens (B, T + 1 + K)  ->  shards of rows, one per thread  ->  gradients summed in the order of
    the shards  ->  AdamW

A step depends on two kinds of values. The first kind is carried from step to step (parameters,
moments, the step itself). The second kind is a pure function of the step (batch, learning rate,
head weights, whether weights are rounded). A checkpoint stores the first kind, so a run can stop
and resume, or branch, between any two steps.

A floating-point sum depends on its order, so the results depend on the number of shards. That
number is stored with the run.
"""

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.backend import Array, Device, array_module, keep_freed_memory, to_device
from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import freeze, map_parameters, named_arrays
from minimtp.engine.optim import AdamW
from minimtp.engine.precision import matmul_precision
from minimtp.engine.replicas import Replicas
from minimtp.machine import require_memory
from minimtp.model.head_loss import covered_shares
from minimtp.model.loss import Objective, accumulate_gradients
from minimtp.model.transformer import LanguageModel
from minimtp.training import schedule
from minimtp.training.build import build_model, fill, quantization_spec
from minimtp.training.data.corpus import Corpus
from minimtp.training.loss_scale import LossScale
from minimtp.training.recipe import Recipe
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.run.distributed import SingleProcess

if TYPE_CHECKING:
    from minimtp.training.stored_states import StoredStates


class Trainer:
    """A model in training: parameters, optimizer and shards, and the step they have reached.

    at: the checkpoint to load, or None for fresh weights.
    partial: parameters that the checkpoint lacks keep their initial values. If False, they are an
    error.
    teacher: a model on the device, for recipes that follow one.
    group: the processes that share each batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        at: Checkpoint | None,
        device: Device,
        shards: int,
        partial: bool = False,
        teacher: LanguageModel | None = None,
        group: SingleProcess | None = None,
    ) -> None:
        keep_freed_memory()
        self.recipe, self.device, self.teacher = recipe, device, teacher
        self.group = group or SingleProcess()
        self.step = at.step if at else 0
        self.shards = min(shards, recipe.batch_size // self.group.size)
        self.quantized = False
        if device.name == "cpu":
            # Weights, moments and a gradient per shard, before any of them is allocated.
            copies = 1 if recipe.freeze_trunk else 3 + self.shards + (recipe.ema_decay > 0)
            require_memory(4 * copies * recipe.trunk_parameters(), "training this model")
        self.model = build_model(recipe, np.random.default_rng(recipe.seed))
        fresh = {}
        if partial:
            fresh = named_arrays(self.model)
        if at:
            fill(self.model, fresh | at.parameters, at.source)
            if partial and recipe.heads == "eagle3" and "heads.fc.weight" not in at.parameters:
                self.model.heads.start_from(self.model.trunk)
        map_parameters(self.model, lambda array: to_device(array, device))
        if recipe.freeze_trunk:
            freeze(self.model.trunk)
        if recipe.freeze_embeddings:
            freeze(self.model.trunk.embedding)
        # The norm of the heads' gradient is clipped apart: it never scales down the trunk's.
        self.flat = FlatParameters(self.model, apart=("heads",))
        stored = at.optimizer if at else {}
        self.optimizer = AdamW(
            self.flat,
            recipe.beta1,
            recipe.beta2,
            weight_decay=recipe.weight_decay,
            rate_factor=lambda name: (
                recipe.step_learning_rate_factor if name.endswith(".log_steps") else 1.0
            ),
        )
        self.optimizer.load_state(stored, self.step)
        self.loss_scale = LossScale(recipe.precision, at.state.get("loss_scale") if at else None)
        self.average = None
        if recipe.ema_decay:
            from minimtp.training.average import WeightAverage

            self.average = WeightAverage(self.flat, recipe.ema_decay, stored)
        self.replicas = Replicas(self.model, self.flat, self.shards)
        self.trunk_states: StoredStates | None = None
        self.teacher_states: StoredStates | None = None
        self._corpus: Corpus | None = None  # whose windows have these states

    def open_states(
        self,
        corpus: Corpus,
        folder: Path,
        report: Callable[[str], None],
        max_bytes: int | None = None,
    ) -> None:
        """Let all steps read the states of a frozen trunk and of the teacher from files in the run
        folder, as the recipe says. report: called with a line on what is stored. max_bytes: of all
        files together; None leaves the choice to `stored_states.open_states`.
        """
        from minimtp.training.stored_states import open_states

        self._corpus = corpus
        recipe, place = self.recipe, folder if self.group.size == 1 else None
        rest = recipe, corpus, place, self.flat.data, report
        with matmul_precision(recipe.precision, self.device):
            if recipe.freeze_trunk:
                self._quantize_when_due()
                self.trunk_states = open_states("trunk", self.model, *rest, max_bytes)
                if max_bytes is not None:
                    max_bytes -= self.trunk_states.max_bytes
            if self.teacher is not None:
                self.teacher_states = open_states("teacher", self.teacher, *rest, max_bytes)

    def advance(self, tokens: Array) -> tuple[np.ndarray, float, float]:
        """Take one step on a batch (B, T + 1 + K) on the host or the device.

        Returns the mean losses (1 + K,) in nats before the update, the learning rate, and the norm
        of the gradient.
        """
        self._quantize_when_due()
        rate = schedule.learning_rate(self.recipe, self.step)
        while True:
            losses = self._compute_gradients(tokens)
            norm = self.optimizer.step(
                rate,
                self.recipe.max_gradient_norm or None,
                self.loss_scale.value,
                self.replicas.in_parts,
            )
            if isfinite(norm) or not self.loss_scale.lower():
                break
        self.loss_scale.count_step()
        self.step += 1
        if self.average:
            self.average.update(self.step)
            if self.step == self.recipe.steps:
                self.average.copy_to_weights()
        return losses, rate, norm

    def restore_quantization(self) -> None:
        """Fake-quantize a model that was loaded from a step after quantization began.

        The next step does the same. This is for an evaluation before it.
        """
        first = self.recipe.first_quantized_step
        if first is not None and self.step > first:
            self._quantize_when_due()

    def close(self) -> None:
        """End the threads, and delete the stored states if the run is finished."""
        self.replicas.close()
        for states in (self.trunk_states, self.teacher_states):
            if states is not None:
                states.close(delete=self.step >= self.recipe.steps)

    def checkpoint(self, corpus: Corpus, state: dict[str, object]) -> Checkpoint:
        """Return a checkpoint of this step. Its arrays are views, so write it before the next."""
        return Checkpoint(
            recipe=self.recipe,
            parameters=named_arrays(self.model),
            optimizer=self.optimizer.state() | (self.average.state() if self.average else {}),
            step=self.step,
            tokens=self.step * self.recipe.tokens_per_step,
            corpus=corpus.to_dict(),
            tokenizer=corpus.tokenizer.to_dict(),
            state=state | self.loss_scale.state(),
        )

    def _compute_gradients(self, tokens: Array) -> np.ndarray:
        """Compute the gradients of a batch, summed over shards and processes.

        Returns the mean losses (1 + K,) in nats, over the rows whose token can be predicted.
        """
        recipe = self.recipe
        objective = Objective(
            head_weights=schedule.head_weights(recipe, self.step),
            head_positions=slice(self.step % recipe.head_stride, None, recipe.head_stride),
            detached=schedule.heads_are_detached(recipe, self.step),
            head_targets=recipe.head_targets,
            teacher=self.teacher,
            distill_weight=recipe.distill_weight,
        )
        split = array_module(tokens).array_split
        rows = split(tokens, self.group.size)[self.group.rank]
        shards = [to_device(shard, self.device) for shard in split(rows, self.shards)]
        numbers = [np.empty(0, np.int64)] * len(shards)
        if self._corpus is not None:
            shape = recipe.batch_size, recipe.tokens_per_sequence
            windows, _ = self._corpus.batch_windows(self.step, recipe.seed, *shape)
            mine = np.array_split(windows, self.group.size)[self.group.rank]
            numbers = np.array_split(mine, self.shards)

        def losses_of(model: LanguageModel, part: tuple[Array, np.ndarray]) -> np.ndarray:
            shard, windows = part
            share = len(shard) / len(tokens)
            inputs = shard[:, : recipe.tokens_per_sequence]
            trunk, teacher = self.trunk_states, self.teacher_states
            losses = accumulate_gradients(
                model,
                shard,
                objective,
                share * self.loss_scale.value,
                trunk_states=trunk and trunk.of(windows, inputs),
                teacher_states=teacher and teacher.of(windows, inputs),
            )
            return losses * share

        with matmul_precision(recipe.precision, self.device):
            losses = self.group.sum_losses(
                lambda: sum(self.replicas.run(losses_of, list(zip(shards, numbers, strict=True)))),
                1 + self.model.depth,
            )
        self.group.sum_in_place(self.flat.gradients)
        if not self.model.depth or self.model.heads.draft_vocabulary is None:
            return losses
        tokens = to_device(tokens, self.device)
        return losses / covered_shares(self.model, tokens, objective.head_positions)

    def _quantize_when_due(self) -> None:
        """Fake-quantize the model at the first step that trains with rounded weights."""
        first = self.recipe.first_quantized_step
        if first is None or self.step < first or self.quantized:
            return
        from minimtp.quant.qat.prepare import prepare_qat

        self.quantized = True
        before = self.flat.data.copy() if self.average else None
        spec = quantization_spec(self.recipe)
        self.model = prepare_qat(self.model, spec, resumed=self.step > first)
        if self.average:
            self.average.shift(before)
        self.replicas.close()
        self.replicas = Replicas(self.model, self.flat, self.shards)
