"""`minimtp train`: start, resume, branch or interrupt a run. An existing run is never overwritten.

A step depends only on the content of its checkpoint (trainer.py). A resumed run therefore continues
exactly as the uninterrupted run would have, bit for bit on the CPU, if the number of shards is the
same. That number is stored with the run and used again.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from tqdm import tqdm

from minimtp import kernels
from minimtp.arguments import (
    CALLABLE,
    DEVICE,
    PATH,
    THREADS,
    WORD,
    checked_arguments,
    instance,
    number,
    optional,
    whole,
)
from minimtp.backend import Device, blas_threads_warning, choose_device
from minimtp.engine import precision
from minimtp.engine.flat import parameter_count
from minimtp.errors import UserError, naming
from minimtp.files import OneWriter, set_aside
from minimtp.machine import available_cores
from minimtp.training.build import DRAFT_VOCABULARY
from minimtp.training.data.corpus import CORPUS, Corpus
from minimtp.training.evaluation import Evaluation
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.run.distributed import SingleProcess
from minimtp.training.run.folder import LoadedRun
from minimtp.training.run.interrupt import Interrupted
from minimtp.training.run.log import RunLog, SilentLog
from minimtp.training.run.loop import Loop, evaluation_is_lost
from minimtp.training.run.mpirun import join, use_own_gpu
from minimtp.training.run.quantized_start import with_start
from minimtp.training.run.start import Beginning, Start, begin, branch, open_folder, path_of
from minimtp.training.run.teacher import load_teacher, require_drafts, require_same_teacher
from minimtp.training.trainer import Trainer

Report = Callable[[str], None]


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of `train`.

    step: steps taken so far, over all sessions. finished: whether that is the whole recipe.
    evaluation: the last evaluation, at step `evaluated_at`. Both are None if there was no
    evaluation.
    """

    folder: Path
    step: int
    finished: bool
    evaluation: Evaluation | None
    evaluated_at: int | None


@checked_arguments(
    recipe=optional(instance(Recipe, expected="a Recipe")),
    corpus=CORPUS,
    out=PATH,
    start=optional(instance(Start, expected="a Start")),
    stop_at_step=optional(whole(1)),
    device=DEVICE,
    threads=optional(THREADS),
    report=optional(CALLABLE),
    encoding=optional(WORD),
    disk_gb=optional(number("a number from 0 to 1000000", lambda gb: 0 <= gb <= 1e6)),
)
def train(
    recipe: Recipe | None = None,
    corpus: Corpus | Sequence[str | Path] = (),
    out: str | Path = "runs/run",
    start: Start | None = None,
    *,
    stop_at_step: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    report: Report | None = None,
    encoding: str | None = None,
    disk_gb: float | None = None,
) -> TrainingResult:
    """Train a model and write it to the run folder `out`, for `minimtp.load`.

    Returns a `TrainingResult`: the `folder`, the `step` reached, whether the run is `finished`, and
    the last `evaluation`.

    recipe: None uses the recipe of the resumed run, else the default recipe.
    corpus: a Corpus, or the sources for `open_corpus`. Without sources, a resumed or branched run
        uses the text that the other run was trained on.
    start: where the run starts; None for fresh weights.
    stop_at_step: save and return at this step, as if interrupted.
    device: "cpu", "cuda" or "auto", a GPU if there is one.
    threads: of the processor, which share a batch (None: as in the resumed run, else one per core).
    report: called with each line of the report (None: standard error).
    encoding: of the files in `corpus` that are not UTF-8 (data/encoding.py).
    disk_gb: 10⁹ bytes that `store_states` may take on the disk; None means half of what is free, at
        most 34.

    All processes that mpirun started share the run (distributed.py).

    Raises UserError if an argument cannot be used, and Interrupted, after saving, if the user stops
    the run.
    """
    start, out, group = start or Start(), Path(out), join()
    group.prepare()
    report = _report_of(group, report)
    with OneWriter(out, needed=group.rank == 0) as writer:
        # No name refers to what `begin` returns, so that `_train` can free its arrays.
        return _train(
            begin(start, recipe, corpus, writer, group, device, encoding),
            start,
            writer,
            group,
            stop_at_step,
            device,
            threads,
            report,
            disk_gb,
        )


def _train(
    beginning: Beginning,
    start: Start,
    writer: OneWriter,
    group: SingleProcess,
    stop_at_step: int | None,
    device: str,
    threads: int | None,
    report: Report,
    disk_gb: float | None,
) -> TrainingResult:
    """Train from the beginning on. The arguments are those of `train`."""
    out = writer.folder
    recipe, corpus, resumed = beginning.recipe, beginning.corpus, beginning.resumed
    last_step = _last_step(recipe, stop_at_step)
    if resumed and resumed.step >= last_step and not _lacks_evaluation(resumed):
        finished = resumed.step >= recipe.steps
        report(
            f"{out} is {'finished' if finished else 'there already'}: "
            f"step {resumed.step} of {recipe.steps}"
        )
        group.finish()
        return _result(out, resumed.step, recipe, resumed.state)
    at = _with_draft_vocabulary(_checkpoint_to_load(beginning, start, last_step), beginning)
    state = dict(resumed.state) if resumed else {}
    teacher = start.teacher or state.get("teacher")
    state["teacher"] = str(path_of(start.teacher).resolve()) if start.teacher else teacher
    # Named if its weights are unusable.
    loaded_from = out if resumed else path_of(start.start_from) or out
    trainer = _make_trainer(
        beginning, at, choose_device(device), threads, teacher, group, loaded_from
    )
    is_resumed = resumed is not None
    del beginning, resumed, at  # their arrays, which the trainer has copied
    try:
        if trainer.teacher is not None:
            require_same_teacher(trainer.teacher, state)
        open_folder(writer)
        if is_resumed and group.rank == 0:  # only people read it
            set_aside(out / checkpoint.RECIPE_NAME, checkpoint.RECIPE)
            checkpoint.check_place(out)
        with _open_log(out, trainer.step, state, report, group) as log:
            _describe(trainer, corpus, report)
            if recipe.store_states:
                max_bytes = None if disk_gb is None else int(1e9 * disk_gb)
                trainer.open_states(corpus, out, report, max_bytes)
            Loop(trainer, corpus, writer, log, state).run(last_step, report)
            result = _result(out, trainer.step, recipe, state)
    except Interrupted:
        group.finish()
        raise
    finally:
        trainer.close()
    group.finish()
    return result


def _report_of(group: SingleProcess, report: Report | None) -> Report:
    """Return the function that receives the report: only the first process reports."""
    if group.rank:
        return lambda line: None
    return report or (lambda line: tqdm.write(line, file=sys.stderr))


def _lacks_evaluation(stored: Checkpoint) -> bool:
    """Return whether a finished run was stopped before its last evaluation was saved."""
    is_finished = stored.step == stored.recipe.steps
    return is_finished and evaluation_is_lost(stored.recipe, stored.step, stored.state)


def _open_log(
    out: Path, step: int, state: dict[str, object], report: Report, group: SingleProcess
) -> RunLog | SilentLog:
    """Return the log of a run that continues after `step`. Only the first process writes one."""
    if group.rank:
        return SilentLog()
    return RunLog(out, step, state.get("evaluated_at"), report)


def _last_step(recipe: Recipe, stop_at_step: int | None) -> int:
    """Return the number of the last step of this session."""
    return min(recipe.steps, stop_at_step or recipe.steps)


def _checkpoint_to_load(beginning: Beginning, start: Start, last_step: int) -> Checkpoint | None:
    """Return the checkpoint that the trainer loads, or None for fresh weights."""
    if not beginning.source:
        return beginning.resumed
    source = path_of(start.start_from)
    at = branch(source, beginning.source, beginning.recipe, start.continue_schedule)
    if at.step >= last_step:
        raise UserError(
            f"{source} is at step {at.step}, and step {last_step} is to be the last: raise tokens"
        )
    if beginning.quantized_start:
        at.parameters = with_start(at.parameters, beginning.quantized_start, beginning.recipe)
    return at


def _with_draft_vocabulary(at: Checkpoint | None, beginning: Beginning) -> Checkpoint | None:
    """Add the most frequent tokens of the text to a new run that limits the drafts to them, unless
    they are those of the run that it starts from.
    """
    recipe, known = beginning.recipe, {} if at is None else at.parameters
    size = recipe.draft_vocabulary_size
    if size is None or beginning.resumed or DRAFT_VOCABULARY in known:
        return at
    # The import is here because models without heads do not need it.
    from minimtp.model.heads.draft_vocabulary import most_frequent_tokens

    ids = most_frequent_tokens(beginning.corpus.train, size, recipe.vocabulary_size)
    return replace(at or Checkpoint(recipe, {}), parameters=known | {DRAFT_VOCABULARY: ids})


def _make_trainer(
    beginning: Beginning,
    at: Checkpoint | None,
    device: Device,
    threads: int | None,
    teacher: str | Path | LoadedRun | None,
    group: SingleProcess,
    loaded_from: str | Path,
) -> Trainer:
    """Return a trainer on the device, at the step of the checkpoint `at` in `loaded_from`."""
    recipe, resumed = beginning.recipe, beginning.resumed
    if recipe.batch_size < group.size:
        raise UserError(
            f"a batch of {recipe.batch_size} windows cannot be shared by {group.size} processes: "
            "raise batch_size"
        )
    precision.require(recipe.precision, device)
    use_own_gpu(group, device)
    shards = _shards(device, threads, resumed, group)
    guide = load_teacher(teacher, recipe, device, beginning.corpus.tokenizer)
    if guide is not None and recipe.head_targets == "teacher":
        require_drafts(guide, at, teacher)
    group.any(False)  # wait until all processes have read the folder, before the first one writes
    partial = at is not resumed  # a branch starts with fresh weights for what its source lacks
    with naming(loaded_from if at else ""):
        return Trainer(recipe, at, device, shards, partial=partial, teacher=guide, group=group)


def _shards(
    device: Device, threads: int | None, resumed: Checkpoint | None, group: SingleProcess
) -> int:
    """Return how many shards a batch is split into: one per thread, and one on a GPU."""
    if device.name != "cpu":
        return 1
    if threads:
        return threads
    if resumed:
        return int(resumed.state.get("shards", 1))
    return max(1, available_cores() // group.local_size)


def _describe(trainer: Trainer, corpus: Corpus, report: Report) -> None:
    """Report all settings, including automatic choices and their reasons."""
    recipe, device, group = trainer.recipe, trainer.device, trainer.group
    parameters = parameter_count(trainer.model)
    report(f"recipe\n{recipe.describe()}")
    report(f"corpus    {corpus.describe()}")
    report(f"model     {parameters:,} parameters; step {trainer.step} of {recipe.steps}")
    if recipe.draft_vocabulary_size is not None:
        covered = trainer.model.heads.draft_vocabulary.coverage(corpus.validation)
        report(
            f"drafts    {recipe.draft_vocabulary_size:,} of {recipe.vocabulary_size:,} tokens, "
            f"{covered:.1%} of the held-out text"
        )
    report(f"device    {device.name}: {device.reason}")
    report(f"kernels   {': '.join(kernels.describe(device.name))}")
    if recipe.precision != "float32":
        report(f"precision {precision.describe(recipe.precision, device)}")
    report(f"threads   {trainer.shards}, each with its share of the batch" + blas_threads_warning())
    if group.size > 1:
        report(f"processes {group.describe()}")


def _result(out: Path, step: int, recipe: Recipe, state: dict[str, object]) -> TrainingResult:
    """Return the result of a run at `step`, with the evaluation in its state."""
    stored = state.get("evaluation")
    evaluation = msgspec.convert(stored, Evaluation) if stored else None
    evaluated_at = state.get("evaluated_at") if stored else None
    return TrainingResult(out, step, step >= recipe.steps, evaluation, evaluated_at)
