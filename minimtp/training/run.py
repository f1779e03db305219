"""A training run: a run folder that is started, resumed, branched or interrupted, and never written over.

A step depends on nothing but what its checkpoint holds (see trainer.py), so a resumed run goes on exactly as it would have,
bit for bit on the CPU, as long as the number of shards is the same: it is stored, and used again. A run can also start from
another one's weights (`start_from`), and with `continue_schedule` from its moments and its place in the text and the
schedule; modules that the other run did not have start fresh.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from tqdm import tqdm

from minimtp import kernels
from minimtp.backend import (
    Device,
    available_cores,
    blas_threads_warning,
    choose_device,
    empty_gpu_pool,
)
from minimtp.backend import numpy as np
from minimtp.engine.flat import parameter_count
from minimtp.engine.precision import require
from minimtp.errors import UserError
from minimtp.training import checkpoint, distributed
from minimtp.training.build import Model, transplant
from minimtp.training.checkpoint import Checkpoint, load
from minimtp.training.data.batches import Batches
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.data.tokenizer import Tokenizer, tokenizer_from_dict
from minimtp.training.evaluate import Evaluation, evaluate_model
from minimtp.training.interrupt import Interrupted, StopRequest
from minimtp.training.log import RunLog, SilentLog
from minimtp.training.plot import draw_losses
from minimtp.training.recipe import Recipe
from minimtp.training.trainer import Trainer

LOGGED_STEPS = 1000  # a long run logs about so many steps, a short one every step


@dataclass(frozen=True)
class TrainingResult:
    """The run folder, the steps taken so far in all, whether that is the whole recipe, and the last evaluation and its step."""

    folder: Path
    step: int
    finished: bool
    evaluation: Evaluation | None
    evaluated_at: int | None


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
    own_text: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    tokenizer: Tokenizer | None = None,
    report: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a model and write it to the run folder `out`; the command `minimtp train`.

    recipe: may be left out with `resume` (the stored one is used). corpus: a Corpus, or what `open_corpus` takes; left out
    with `resume` or `start_from` it is the one that run was trained on, and so is the tokenizer. start_from: a run folder
    whose weights are taken over; continue_schedule: also its moments and its step. stop_at_step: save and return there, as
    if interrupted. own_text: train on so many tokens that the run in `start_from` writes first (training/data/self_generated.py), instead of on its
    corpus, in one process. report: receives lines for people (None: standard error).

    In a process that mpirun started this is the work of all of them: see distributed.py.

    Raises UserError for whatever cannot be used, and Interrupted, after saving, when the user stops the run.
    """
    report = report or (lambda line: tqdm.write(line, file=sys.stderr))
    out, team = Path(out), distributed.join()
    team.prepare()
    if team.rank:
        report = lambda line: None  # noqa: E731
    before = _previous(out, recipe, resume)
    recipe = recipe or (before.recipe if before else Recipe())
    source = (
        None
        if before or start_from is None
        else checkpoint.read(start_from, optimizer=continue_schedule)
    )
    if own_text is not None and start_from is None:
        raise UserError("own_text is written by the run to start from: give that run with --from")
    if not isinstance(corpus, Corpus):
        corpus = _open_corpus(corpus, tokenizer, before or source)
    if own_text is not None and not before:
        if team.size > 1:
            raise UserError(
                "own_text is written by one process: give the command without mpirun and with --stop-at-step 1, "
                "then go on with mpirun and --resume"
            )
        from minimtp.training.data.self_generated import (
            write_own_text,
        )  # decodes, which training otherwise does not

        folder = write_own_text(
            load(start_from, choose_device(device).name), corpus, out, own_text, recipe.seed
        )
        corpus = open_corpus([folder], corpus.tokenizer)
    _check_corpus(corpus, recipe, before)
    if source and source.tokenizer != corpus.tokenizer.to_dict():
        raise UserError(
            f"the weights of {start_from} belong to another tokenizer: leave --tokenizer out to take over its own"
        )
    if stop_at_step is not None and stop_at_step < 1:
        raise UserError(f"stop_at_step must be at least 1, not {stop_at_step}")
    last_step = min(recipe.steps, stop_at_step or recipe.steps)
    if before and before.step >= last_step:
        report(f"{out} is finished: step {before.step} of {recipe.steps}")
        team.finish()
        return _result(out, before.step, recipe, before.state)
    at = _branch(start_from, source, recipe, continue_schedule) if source else before
    if at and at.step >= last_step:
        raise UserError(
            f"{start_from} is at step {at.step}, and step {last_step} is to be the last: raise tokens"
        )
    state = dict(before.state) if before else {}
    state["teacher"] = str(Path(teacher).resolve()) if teacher else state.get("teacher")
    if recipe.batch_size < team.size:
        raise UserError(
            f"a batch of {recipe.batch_size} windows cannot be shared by {team.size} processes: raise batch"
        )
    chosen = choose_device(device)
    require(recipe.precision, chosen)
    distributed.use_own_gpu(team, chosen)
    shards = _shards(chosen, threads, before, team)
    guide = _teacher(state["teacher"], recipe, chosen)
    team.any(False)  # all have read what was there before the first one writes
    if team.rank == 0:
        checkpoint.make_folder(out)
    trainer = Trainer(
        recipe, at, chosen, shards, partial=at is not before, teacher=guide, team=team
    )
    try:
        with RunLog(out, trainer.step) if team.rank == 0 else SilentLog() as log:
            report(f"recipe\n{recipe.describe()}")
            report(f"corpus    {corpus.describe()}")
            report(
                f"model     {parameter_count(trainer.model):,} parameters; step {trainer.step} of {recipe.steps}"
            )
            report(f"device    {chosen.name}: {chosen.reason}")
            report(f"kernels   {': '.join(kernels.describe(chosen.name))}")
            report(
                f"threads   {trainer.shards}, each with its share of the batch"
                + blas_threads_warning()
            )
            if team.size > 1:
                report(f"processes {team.describe()}")
            result = _run(trainer, corpus, out, log, last_step, state, report)
    except Interrupted:
        team.finish()
        raise
    finally:
        trainer.close()
    team.finish()
    return result


def _run(
    trainer: Trainer,
    corpus: Corpus,
    out: Path,
    log: RunLog | SilentLog,
    last_step: int,
    state: dict,
    report: Callable[[str], None],
) -> TrainingResult:
    """Steps, log lines and checkpoints up to `last_step`."""
    recipe, team, began = (
        trainer.recipe,
        trainer.team,
        time.perf_counter() - state.get("seconds", 0.0),
    )
    log_every, per_step = (
        max(1, recipe.steps // LOGGED_STEPS),
        recipe.batch_size * recipe.context_length,
    )
    interval = 0.1 if sys.stderr.isatty() else 30.0
    bar = tqdm(total=recipe.steps * per_step, initial=trainer.step * per_step, unit="tok", unit_scale=True,
               desc=out.name, mininterval=interval, dynamic_ncols=True, disable=team.rank > 0)  # fmt: skip

    resume_with = f"go on from the last checkpoint with: {distributed.command_to_resume(out)}"

    def batch_of(step: int) -> np.ndarray:
        return corpus.batch(
            step,
            seed=recipe.seed,
            batch_size=recipe.batch_size,
            context_length=recipe.context_length,
            depth=recipe.draft_depth,
        )

    batches = Batches(batch_of, trainer.device, last_step)

    def save() -> None:
        if team.rank:
            return
        state.update(seconds=time.perf_counter() - began, shards=trainer.shards)
        checkpoint.write(out, trainer.at_this_step(corpus, state))

    def save_and_evaluate() -> None:
        save()  # whatever ends the process while it evaluates costs no step
        if recipe.evaluate_bytes and team.rank == 0:
            evaluation = evaluate_model(
                trainer.model, corpus, recipe.context_length, recipe.evaluate_bytes, trainer.shards
            )
            empty_gpu_pool()  # its arrays have other sizes than training's
            state.update(evaluation=evaluation.to_dict(), evaluated_at=trainer.step)
            log.write(
                step=trainer.step, tokens=trainer.step * per_step, evaluation=evaluation.to_dict()
            )
            save()

    def steps(stop: StopRequest) -> None:
        while trainer.step < last_step and not team.any(stop.asked):
            losses, rate, norm = trainer.advance(batches.at(trainer.step))
            if not (isfinite(losses[0]) and isfinite(norm)):
                what = f"loss is {losses[0]} and the gradient's norm {norm}"
                raise UserError(
                    f"the {what} at step {trainer.step}: lower the learning_rate or raise the warmup"
                )
            bar.set_postfix_str(f"loss {losses[0]:.3f}", refresh=False)
            bar.update(per_step)
            if trainer.step % log_every == 0 or trainer.step == last_step:
                log.write(
                    step=trainer.step, tokens=trainer.step * per_step,
                    losses=[loss if isfinite(loss) else None for loss in losses.tolist()],
                    learning_rate=rate, gradient_norm=norm, seconds=time.perf_counter() - began,
                )  # fmt: skip
            due = (
                recipe.checkpoint_every
                and trainer.step % recipe.checkpoint_every == 0
                and trainer.step < last_step
            )
            if due and not stop.asked:  # else it is saved at once
                save_and_evaluate()

    with StopRequest() as stop, bar, closing(batches):
        team.begin(
            lambda: stop.asked,
            f"minimtp: a process was killed, and mpirun all others; {resume_with}",
        )
        try:
            steps(stop)
            if trainer.step == recipe.steps:
                save_and_evaluate()
            else:
                save()
            stopped = team.any(stop.asked)
        except distributed.Lost as lost:
            save()
            raise UserError(f"{lost}; step {trainer.step} is saved; {resume_with}") from lost
    if team.rank == 0 and (trainer.step == recipe.steps or not stopped):
        picture = draw_losses(out)
        report(f"saved     {out}" + (f", loss curve {picture}" if picture else ""))
    if (
        stopped
    ):  # even in the last step, of the run or of this stage: what comes after it must not begin
        raise Interrupted(out, trainer.step, recipe.steps)
    return _result(out, trainer.step, recipe, state)


def _previous(out: Path, recipe: Recipe | None, resume: bool) -> Checkpoint | None:
    """The checkpoint to resume from. Raises UserError when what stands in `out` and what was asked for do not fit."""
    if not checkpoint.started(out):
        if resume:
            raise UserError(f"there is no run to resume in {out}: leave --resume out to start one")
        return None
    if not checkpoint.exists(out):
        if resume and recipe is None:
            raise UserError(
                f"{out} holds a run without a checkpoint: repeat its whole command with --resume to start it over"
            )
        if resume:
            return None  # stopped before its first checkpoint: the beginning is where to go on from
        raise UserError(
            f"{out} holds a run without a checkpoint: add --resume to start it over, or choose another --out"
        )
    before = checkpoint.read(out)
    if not resume:
        finished = before.step >= before.recipe.steps
        state = (
            "a finished run"
            if finished
            else f"a run at step {before.step} of {before.recipe.steps}"
        )
        way_out = (
            "choose another --out" if finished else "add --resume to go on, or choose another --out"
        )
        raise UserError(f"{out} already holds {state}: {way_out}")
    if before.packed is not None:
        raise UserError(
            f"{out} holds a quantized model, which cannot be trained: choose another --out"
        )
    different = before.recipe.differences(recipe) if recipe else []
    if different:
        name = different[0]
        raise UserError(
            f"the run in {out} has {name} {getattr(before.recipe, name)}, not {getattr(recipe, name)}: "
            "resume it without changing its recipe, or choose another --out"
        )
    return before


def _open_corpus(
    sources: Sequence[str | Path], tokenizer: Tokenizer | None, origin: Checkpoint | None
) -> Corpus:
    """The corpus that was asked for; what was left open, text or tokenizer, is as in the run that the weights come from."""
    if origin:
        sources = sources or origin.corpus.get("sources", ())
        tokenizer = tokenizer or tokenizer_from_dict(origin.tokenizer)
    return open_corpus(sources, tokenizer)


def _check_corpus(corpus: Corpus, recipe: Recipe, before: Checkpoint | None) -> None:
    if recipe.vocabulary_size != corpus.tokenizer.vocabulary_size:
        raise UserError(
            f"vocabulary_size {recipe.vocabulary_size} is not the tokenizer's, which has "
            f"{corpus.tokenizer.vocabulary_size} tokens: set it to that"
        )
    corpus.require(recipe.batch_size, recipe.context_length, recipe.draft_depth)
    if before and before.corpus["fingerprint"] != corpus.fingerprint:
        raise UserError(
            f"the run began on the text with fingerprint {str(before.corpus['fingerprint'])[:16]}, and {corpus.name} has "
            f"{corpus.fingerprint[:16]}: resume with the same text"
        )


def _branch(
    folder: str | Path, source: Checkpoint, recipe: Recipe, continue_schedule: bool
) -> Checkpoint:
    """What a run of `recipe` takes over from `source`, the run in `folder`."""
    if source.packed is not None:
        raise UserError(
            f"{folder} holds a quantized model, which cannot be trained: start from the run it was made from"
        )
    moments = {}
    for kind in ("first", "second", "average"):
        arrays = {
            name.removeprefix(f"{kind}."): a
            for name, a in source.optimizer.items()
            if name.startswith(f"{kind}.")
        }
        moments |= {
            f"{kind}.{name}": array
            for name, array in transplant(arrays, source.recipe, recipe).items()
        }
    parameters = transplant(source.parameters, source.recipe, recipe)
    return Checkpoint(recipe, parameters, moments, source.step if continue_schedule else 0)


def _teacher(folder: str | None, recipe: Recipe, device: Device) -> Model | None:
    """The model whose probabilities the run follows, if the recipe says so. Raises UserError when it cannot be followed."""
    follows_heads = recipe.head_targets == "teacher"
    if (folder is None) != (recipe.distill_weight == 0.0 and not follows_heads):
        follower = "head_targets teacher" if follows_heads else "distill_weight"
        needed = (
            f"{follower} needs a teacher"
            if folder is None
            else "a teacher needs a distill_weight above 0"
        )
        raise UserError(f"{needed}: give both or neither")
    if folder is None:
        return None
    run = load(folder, device.name)
    if follows_heads and run.model.depth < recipe.draft_depth:
        raise UserError(
            f"the teacher {folder} has {run.model.depth} heads to follow, and {recipe.draft_depth} are trained"
        )
    if follows_heads and recipe.head_stride > 1 and not run.model.heads.positionwise:
        raise UserError(
            f"head_stride {recipe.head_stride} needs a teacher with {recipe.heads} heads, not {run.recipe.heads}"
        )
    if run.recipe.vocabulary_size != recipe.vocabulary_size:
        raise UserError(
            f"the teacher {folder} knows {run.recipe.vocabulary_size} tokens and this model {recipe.vocabulary_size}: "
            "take a teacher with the same tokenizer"
        )
    return run.model


def _shards(
    device: Device, threads: int | None, before: Checkpoint | None, team: distributed.Alone
) -> int:
    if threads is not None and threads < 1:
        raise UserError(f"threads must be at least 1, not {threads}")
    if device.name != "cpu":
        return 1
    return threads or (
        int(before.state["shards"]) if before else max(1, available_cores() // team.local_size)
    )


def _result(out: Path, step: int, recipe: Recipe, state: dict) -> TrainingResult:
    evaluated_at = state.get("evaluated_at")  # not known of checkpoints from before it was stored
    evaluation = None if evaluated_at is None else Evaluation(**state["evaluation"])
    return TrainingResult(out, step, step >= recipe.steps, evaluation, evaluated_at)
