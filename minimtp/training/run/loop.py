"""The training loop: steps, log lines, evaluations and checkpoints, until the end or a signal."""

import sys
import time
from collections.abc import Callable
from contextlib import closing
from math import isfinite

from tqdm import tqdm

from minimtp.backend import Array, empty_gpu_pool
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.files import OneWriter
from minimtp.training.data.batches import Batches
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import MAX_WINDOW, evaluate_model
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.distributed import ProcessLost
from minimtp.training.run.interrupt import Interrupted, StopRequest
from minimtp.training.run.log import RunLog, SilentLog
from minimtp.training.run.mpirun import command_to_resume
from minimtp.training.run.plot import draw_losses
from minimtp.training.trainer import Trainer

LOGGED_STEPS = 1000  # number of steps that a long run logs; a shorter run logs every step
TERMINAL_INTERVAL, FILE_INTERVAL = 0.1, 30.0  # seconds between updates of the progress bar


def evaluation_is_lost(recipe: Recipe, step: int, state: dict[str, object]) -> bool:
    """Return whether the evaluation at this step is due but is not in the state.

    state: the state of a checkpoint. It lacks the evaluation of its step if the run was stopped
    after this checkpoint and before the evaluation was saved.
    """
    every = recipe.checkpoint_every
    due = step == recipe.steps or (every > 0 and step > 0 and step % every == 0)
    is_stored = bool(state.get("evaluation")) and state.get("evaluated_at") == step
    return bool(recipe.evaluation_tokens) and due and not is_stored


class Loop:
    """Runs the steps of `trainer` on `corpus`, and writes to the run folder of `writer`.

    state: the values that the checkpoint stores in addition to the trainer. The loop keeps its keys
    seconds, shards, evaluation and evaluated_at up to date.
    """

    def __init__(
        self,
        trainer: Trainer,
        corpus: Corpus,
        writer: OneWriter,
        log: RunLog | SilentLog,
        state: dict[str, object],
    ) -> None:
        self.trainer, self.corpus, self.writer, self.log = trainer, corpus, writer, log
        self.out, self.state = writer.folder, state
        self.recipe, self.group = trainer.recipe, trainer.group
        self._began = time.perf_counter() - state.get("seconds", 0.0)

    def run(self, last_step: int, report: Callable[[str], None]) -> None:
        """Train up to `last_step`, then save, evaluate a finished run, and draw its loss curve.

        Raises Interrupted, after saving, if the user stops the run, and UserError if the loss is
        not finite or another process is lost.
        """
        trainer, group, recipe, steps = self.trainer, self.group, self.recipe, self.recipe.steps
        command = command_to_resume(self.out)
        resume_with = f"resume from the last checkpoint with: {command}"
        batches = Batches(self._batch, trainer.device, last_step)
        with StopRequest() as stop, self._progress() as bar, closing(batches):
            group.begin(
                lambda: stop.requested,
                f"minimtp: a process was killed, and mpirun ended all others; {resume_with}",
            )
            try:
                if evaluation_is_lost(recipe, trainer.step, self.state):
                    report(f"evaluating step {trainer.step}: the run was stopped before that")
                    trainer.restore_quantization()
                    self._evaluate_and_save()
                self._take_steps(last_step, stop, bar, batches)
                self._save()
                if trainer.step == steps and evaluation_is_lost(recipe, steps, self.state):
                    self._evaluate_and_save()
                stopped = group.any(stop.requested)
            except ProcessLost as lost:
                self._save()
                raise UserError(f"{lost}; step {trainer.step} is saved; {resume_with}") from lost
        if group.rank == 0 and (trainer.step == steps or not stopped):
            plot = draw_losses(self.out)
            report(f"saved     {self.out}" + (f", loss curve {plot}" if plot else ""))
        if stopped:  # even after the last step, so that the caller does not start its next task
            raise Interrupted(self.out, trainer.step, steps)

    def _take_steps(self, last_step: int, stop: StopRequest, bar: tqdm, batches: Batches) -> None:
        """Train until `last_step` or a stop request, with log lines and regular checkpoints."""
        trainer, every = self.trainer, self.recipe.checkpoint_every
        log_every = max(1, self.recipe.steps // LOGGED_STEPS)
        while trainer.step < last_step and not self.group.any(stop.requested):
            losses, rate, norm = trainer.advance(batches.at(trainer.step))
            loss = losses[0] if trainer.trunk_states is None else losses[1]
            if not (isfinite(loss) and isfinite(norm)):
                raise UserError(
                    f"the loss is {loss} and the gradient's norm {norm} "
                    f"at step {trainer.step}: lower learning_rate, or raise warmup_fraction"
                )
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update(self.recipe.tokens_per_step)
            if trainer.step % log_every == 0 or trainer.step == last_step:
                self._log_step(losses, rate, norm)
            due = every and trainer.step % every == 0 and trainer.step < last_step
            if due and not stop.requested:  # a stopped run is saved without an evaluation
                self._save()
                self._evaluate_and_save()

    def _batch(self, step: int) -> Array:
        """Return the batch of one step: (B, T + 1 + K) int64."""
        recipe = self.recipe
        return self.corpus.batch(
            step,
            seed=recipe.seed,
            batch_size=recipe.batch_size,
            sequence_length=recipe.tokens_per_sequence,
            depth=recipe.draft_depth,
            aligned=recipe.store_states,
        )

    def _progress(self) -> tqdm:
        """Return the progress bar, which counts tokens."""
        return tqdm(
            total=self.recipe.steps * self.recipe.tokens_per_step,
            initial=self.trainer.step * self.recipe.tokens_per_step,
            unit="tok",
            unit_scale=True,
            desc=self.out.name,
            mininterval=TERMINAL_INTERVAL if sys.stderr.isatty() else FILE_INTERVAL,
            dynamic_ncols=True,
            disable=self.group.rank > 0,
        )

    def _log_step(self, losses: np.ndarray, rate: float, norm: float) -> None:
        self.writer.check()
        self.log.write(
            step=self.trainer.step,
            tokens=self.trainer.step * self.recipe.tokens_per_step,
            losses=[loss if isfinite(loss) else None for loss in losses.tolist()],
            learning_rate=rate,
            gradient_norm=norm,
            seconds=time.perf_counter() - self._began,
        )

    def _save(self) -> None:
        """Write the checkpoint. Only the first process writes."""
        if self.group.rank:
            return
        self.writer.check()
        self.state["seconds"] = time.perf_counter() - self._began
        self.state["shards"] = self.trainer.shards
        stored = self.trainer.checkpoint(self.corpus, self.state)
        stored.corpus = self.corpus.to_dict(self.out)
        checkpoint.write(self.out, stored)

    def _evaluate_and_save(self) -> None:
        """Evaluate, log the result, and store it in the checkpoint.

        The caller has saved already, so no step is lost if the process ends during the evaluation.
        """
        recipe, trainer = self.recipe, self.trainer
        if not recipe.evaluation_tokens or self.group.rank:
            return
        evaluation = evaluate_model(
            trainer.model,
            self.corpus,
            min(recipe.context_length, MAX_WINDOW),
            recipe.evaluation_tokens,
            trainer.shards,
        ).to_dict()
        empty_gpu_pool()  # the arrays of an evaluation have other sizes than in training
        self.state.update(evaluation=evaluation, evaluated_at=trainer.step)
        self.log.write(
            step=trainer.step,
            tokens=trainer.step * self.recipe.tokens_per_step,
            evaluation=evaluation,
        )
        self._save()
