"""The training loop.

One step, for batch s of the run:

    tokens (B, T + 1 + K)  ->  shards of rows, one a thread  ->  gradients summed in the shards' order  ->  AdamW

Everything a step depends on is either in the checkpoint (parameters, moments, step) or a pure function of the step (batch,
learning rate, head weights, whether weights are rounded yet). So a resumed run goes on exactly as it would have, bit for bit
on the CPU, and a run can branch: `start_from` takes over another run's weights, and with `continue_schedule` also its
moments and its place in the text and the schedule, while modules it did not have start fresh.

The sum over shards is exact arithmetic in no order, so bits depend on how many shards there are: the number is kept in the
checkpoint and a resumed run uses it again.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from tqdm import tqdm

from minimtp import kernels
from minimtp.backend import Device, available_cores, choose_device, to_device
from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters, parameter_count
from minimtp.engine.module import freeze, map_parameters
from minimtp.engine.optim import AdamW
from minimtp.engine.replicas import Replicas
from minimtp.engine.tensor import Array
from minimtp.errors import UserError
from minimtp.model.objective import accumulate_gradients
from minimtp.quant.qat import prepare
from minimtp.training import checkpoint, schedule
from minimtp.training.build import Model, build_model, fill, quantization_spec, transplant
from minimtp.training.checkpoint import Checkpoint
from minimtp.training.corpus import Corpus, open_corpus
from minimtp.training.evaluate import Evaluation, evaluate_model
from minimtp.training.interrupt import Interrupted, StopRequest
from minimtp.training.log import RunLog
from minimtp.training.picture import draw_losses
from minimtp.training.recipe import Recipe
from minimtp.training.tokenizer import Tokenizer, tokenizer_from_dict

LOGGED_STEPS = 1000  # a long run logs about so many steps, a short one every step


@dataclass(frozen=True)
class TrainingResult:
    """The run folder, the steps taken so far in all, whether that is the whole recipe, and the last evaluation."""

    folder: Path
    step: int
    finished: bool
    evaluation: Evaluation | None


class Trainer:
    """A model in training: parameters, optimizer and shards, and the step they have reached.

    at: where to go on from, or None for fresh weights. What it lacks is an error, or fresh too if it is `partial`.
    """

    def __init__(self, recipe: Recipe, at: Checkpoint | None, device: Device, shards: int, partial: bool = False) -> None:
        self.recipe, self.device = recipe, device
        self.step = at.step if at else 0
        self.shards = min(shards, recipe.batch)
        self.quantized = False
        self.model = build_model(recipe, np.random.default_rng(recipe.seed))
        fresh = {name: parameter.data for name, parameter in self.model.named_parameters()} if partial else {}
        if at:
            fill(self.model, fresh | at.parameters, "the checkpoint")
        map_parameters(self.model, lambda array: to_device(array, device))
        if recipe.freeze_trunk:
            freeze(self.model.trunk)
        self.flat = FlatParameters(self.model)
        self.optimizer = AdamW(self.flat, recipe.beta1, recipe.beta2, weight_decay=recipe.weight_decay)
        moments = at.optimizer if at else {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:  # without decay and moments a gradient of zero moves nothing
                self.flat.decay_mask[self.flat.places[name][0]] = 0
                moments = {key: array for key, array in moments.items() if key.partition(".")[2] != name}
        self.optimizer.load_state(moments, self.step)
        self.replicas = Replicas(self.model, self.flat, self.shards)

    def advance(self, tokens: np.ndarray) -> tuple[np.ndarray, float, float]:
        """One step on a batch (B, T + 1 + K): mean losses (1 + K,) in nats, the learning rate, the gradient's norm."""
        self._quantize_when_due()
        weights = np.array(schedule.head_weights(self.recipe, self.step))
        shards = [to_device(shard, self.device) for shard in np.array_split(tokens, self.shards)]

        def losses_of(model: Model, shard: Array) -> np.ndarray:
            share = len(shard) / len(tokens)
            return accumulate_gradients(model, shard, weights, share) * share

        losses = sum(self.replicas.run(losses_of, shards))
        rate = schedule.learning_rate(self.recipe, self.step)
        norm = self.optimizer.step(rate, self.recipe.clip or None)
        self.step += 1
        return losses, rate, norm

    def close(self) -> None:
        """End the threads."""
        self.replicas.close()

    def at_this_step(self, corpus: Corpus, state: dict[str, object]) -> Checkpoint:
        """A checkpoint of now; its arrays are views, to be written before the next step."""
        return Checkpoint(
            recipe=self.recipe, parameters=self.flat.by_name(self.flat.data), optimizer=self.optimizer.state(),
            step=self.step, tokens=self.step * self.recipe.batch * self.recipe.context, corpus=corpus.to_dict(),
            tokenizer=corpus.tokenizer.to_dict(), state=state,
        )  # fmt: skip

    def _quantize_when_due(self) -> None:
        first = self.recipe.first_quantized_step
        if first is None or self.step < first or self.quantized:
            return
        self.quantized = True
        self.model = prepare(self.model, quantization_spec(self.recipe))
        self.replicas.close()
        self.replicas = Replicas(self.model, self.flat, self.shards)


def train(
    recipe: Recipe | None = None,
    corpus: Corpus | Sequence[str | Path] = (),
    out: str | Path = "runs/run",
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
    continue_schedule: bool = False,
    stop_at_step: int | None = None,
    teacher: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    tokenizer: Tokenizer | None = None,
    report: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a model and write it to the run folder `out`; the command `minimtp train`.

    recipe: may be left out with `resume` (the stored one is used). corpus: a Corpus, or what `open_corpus` takes; left out
    with `resume` it is the one the run began with. start_from: a run folder whose weights are taken over;
    continue_schedule: also its moments and its step. stop_at_step: save and return there, as if interrupted. report:
    receives lines for people (None: standard error).

    Raises UserError for whatever cannot be used, and Interrupted, after saving, when the user stops the run.
    """
    report = report or (lambda line: tqdm.write(line, file=sys.stderr))
    out = Path(out)
    before = _previous(out, recipe, resume)
    recipe = recipe or (before.recipe if before else Recipe())
    if not isinstance(corpus, Corpus):
        sources = corpus or (before.corpus["sources"] if before else ())
        corpus = open_corpus(sources, tokenizer_from_dict(before.tokenizer) if before else tokenizer)
    _check_corpus(corpus, recipe, before)
    last_step = min(recipe.steps, recipe.steps if stop_at_step is None else stop_at_step)
    if before and before.step >= last_step:
        report(f"{out} is finished: step {before.step} of {recipe.steps}")
        return TrainingResult(out, before.step, before.step >= recipe.steps, _evaluation(before.state))
    at = before if before or start_from is None else _branch(start_from, recipe, continue_schedule)
    if at and at.step >= last_step:
        raise UserError(f"{start_from} is at step {at.step}, and step {last_step} is to be the last: raise tokens")
    chosen = choose_device(device)
    shards = _shards(chosen, threads, before)
    checkpoint.make_folder(out)
    trainer = Trainer(recipe, at, chosen, shards, partial=at is not before)
    report(f"recipe\n{recipe.describe()}")
    report(f"corpus    {corpus.describe()}")
    report(f"model     {parameter_count(trainer.model):,} parameters; step {trainer.step} of {recipe.steps}")
    report(f"device    {chosen.name} ({chosen.reason}); kernels {' ('.join(kernels.describe())}); {trainer.shards} threads")
    try:
        return _run(trainer, corpus, out, last_step, dict(before.state) if before else {}, report)
    finally:
        trainer.close()


def _run(
    trainer: Trainer, corpus: Corpus, out: Path, last_step: int, state: dict, report: Callable[[str], None]
) -> TrainingResult:
    """Steps, log lines and checkpoints up to `last_step`."""
    recipe, began = trainer.recipe, time.perf_counter() - state.get("seconds", 0.0)
    log_every, per_step = max(1, recipe.steps // LOGGED_STEPS), recipe.batch * recipe.context
    interval = 0.1 if sys.stderr.isatty() else 30.0
    bar = tqdm(total=recipe.steps * per_step, initial=trainer.step * per_step, unit="tok", unit_scale=True,
               desc=out.name, mininterval=interval, dynamic_ncols=True)  # fmt: skip

    def save() -> None:
        state.update(seconds=time.perf_counter() - began, shards=trainer.shards)
        checkpoint.write(out, trainer.at_this_step(corpus, state))

    def evaluate() -> None:
        if recipe.evaluate_bytes:
            evaluation = evaluate_model(trainer.model, corpus, recipe.context, recipe.evaluate_bytes, trainer.shards)
            state["evaluation"] = evaluation.to_dict()
            log.write(step=trainer.step, tokens=trainer.step * per_step, evaluation=evaluation.to_dict())

    with RunLog(out, trainer.step) as log, StopRequest() as stop, bar:
        while trainer.step < last_step and not stop.asked:
            tokens = corpus.batch(trainer.step, seed=recipe.seed, batch=recipe.batch, context=recipe.context,
                                  depth=recipe.draft_depth)  # fmt: skip
            losses, rate, norm = trainer.advance(tokens)
            if not isfinite(losses[0]):
                raise UserError(f"the loss is {losses[0]} at step {trainer.step}: lower the learning_rate or raise the warmup")
            bar.set_postfix_str(f"loss {losses[0]:.3f}", refresh=False)
            bar.update(per_step)
            if trainer.step % log_every == 0 or trainer.step == last_step:
                log.write(
                    step=trainer.step, tokens=trainer.step * per_step,
                    losses=[loss if isfinite(loss) else None for loss in losses.tolist()],
                    learning_rate=rate, gradient_norm=norm, seconds=time.perf_counter() - began,
                )  # fmt: skip
            if recipe.checkpoint_every and trainer.step % recipe.checkpoint_every == 0 and trainer.step < last_step:
                save()
                evaluate()
        if trainer.step == recipe.steps:
            evaluate()
        save()
    if stop.asked and trainer.step < last_step:
        raise Interrupted(out, trainer.step, recipe.steps)
    picture = draw_losses(out)
    report(f"saved     {out}" + (f", loss curve {picture}" if picture else ""))
    return TrainingResult(out, trainer.step, trainer.step == recipe.steps, _evaluation(state))


def _previous(out: Path, recipe: Recipe | None, resume: bool) -> Checkpoint | None:
    """The checkpoint to resume from. Raises UserError when what stands in `out` and what was asked for do not fit."""
    if not checkpoint.started(out):
        if resume:
            raise UserError(f"there is no run to resume in {out}: leave --resume out to start one")
        return None
    if not checkpoint.exists(out):
        if resume:
            return None  # stopped before its first checkpoint: the beginning is where to go on from
        raise UserError(f"{out} holds a run without a checkpoint: add --resume to start it over, or choose another --out")
    before = checkpoint.read(out)
    if not resume:
        finished = before.step >= before.recipe.steps
        state = "a finished run" if finished else f"a run at step {before.step} of {before.recipe.steps}"
        way_out = "choose another --out" if finished else "add --resume to go on, or choose another --out"
        raise UserError(f"{out} already holds {state}: {way_out}")
    if before.packed is not None:
        raise UserError(f"{out} holds a quantized model, which cannot be trained: choose another --out")
    different = before.recipe.differences(recipe) if recipe else []
    if different:
        name = different[0]
        raise UserError(
            f"the run in {out} has {name} {getattr(before.recipe, name)}, not {getattr(recipe, name)}: "
            "resume it without changing its recipe, or choose another --out"
        )
    return before


def _check_corpus(corpus: Corpus, recipe: Recipe, before: Checkpoint | None) -> None:
    if recipe.vocabulary_size != corpus.tokenizer.vocabulary_size:
        raise UserError(
            f"vocabulary_size {recipe.vocabulary_size} is not the tokenizer's, which has "
            f"{corpus.tokenizer.vocabulary_size} tokens: set it to that"
        )
    corpus.require(recipe.batch, recipe.context, recipe.draft_depth)
    if before and before.corpus["fingerprint"] != corpus.fingerprint:
        raise UserError(
            f"the run began on the text with fingerprint {str(before.corpus['fingerprint'])[:16]}, and {corpus.name} has "
            f"{corpus.fingerprint[:16]}: resume with the same text"
        )


def _branch(folder: str | Path, recipe: Recipe, continue_schedule: bool) -> Checkpoint:
    """What a run of `recipe` takes over from the run in `folder`."""
    source = checkpoint.read(folder, optimizer=continue_schedule)
    if source.packed is not None:
        raise UserError(f"{folder} holds a quantized model, which cannot be trained: start from the run it was made from")
    moments = {}
    for kind in ("first", "second"):
        arrays = {name.removeprefix(f"{kind}."): a for name, a in source.optimizer.items() if name.startswith(f"{kind}.")}
        moments |= {f"{kind}.{name}": array for name, array in transplant(arrays, source.recipe, recipe).items()}
    parameters = transplant(source.parameters, source.recipe, recipe)
    return Checkpoint(recipe, parameters, moments, source.step if continue_schedule else 0)


def _shards(device: Device, threads: int | None, before: Checkpoint | None) -> int:
    if threads is not None and threads < 1:
        raise UserError(f"threads must be at least 1, not {threads}")
    if device.name != "cpu":
        return 1
    return threads or (int(before.state["shards"]) if before else available_cores())


def _evaluation(state: dict) -> Evaluation | None:
    return Evaluation(**state["evaluation"]) if "evaluation" in state else None
