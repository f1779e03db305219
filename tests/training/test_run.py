"""Training: resumable bit for bit, branchable, interruptible; evaluation, rounding to a packed run, the loss curve."""

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import math
import signal
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from minimtp import backend
from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError
from minimtp.model.matrix import bits_per_weight
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.training import schedule
from minimtp.training.build import build_model
from minimtp.training.data.corpus import Corpus
from minimtp.training.data.tokenizer import ByteTokenizer
from minimtp.training.evaluate import Evaluation, dead_heads, evaluate, evaluate_model
from minimtp.training.presets import preset
from minimtp.training.quantize import MAX_LOST_ACCEPTANCE, acceptance, calibration_batches, quantize
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run import plot as picture
from minimtp.training.run.folder import load_run
from minimtp.training.run.interrupt import Interrupted, StopRequest
from minimtp.training.run.log import RunLog, read_log
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.trainer import Trainer

CPU = choose_device("cpu")
CONFIGURATIONS = {
    "plain": {},
    "parallel": {"heads": "parallel", "draft_depth": 2},
    "sequential, one by one": {"heads": "sequential", "draft_depth": 2, "curriculum": "forward"},
    "token-conditioned, rounded late": {
        "heads": "token_conditioned", "draft_depth": 3, "quantization": "qat", "quantize_from": 0.5
    },
    "learning its steps late, token by token": {
        "quantization": "qat", "quantize_from": 0.5, "weight_grid": "int3-ggml-signed-g32", "weight_scales": "learned",
        "activations": "int8-token", "straight_through": "clip-round", "heads": "parallel", "draft_depth": 1, "ema_decay": 0.9,
    },
    "rounded and averaged": {"quantization": "qat", "ema_decay": 0.9},
    "rounded to 8 bits from the start": {"quantization": "qat", "weight_grid": "q8_0", "activations": "none"},
}  # fmt: skip


def quiet(line: str) -> None:
    """A report that nobody reads."""


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Drawing takes longer than these trainings; the one test that wants it says so with the fixture `pictures`."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)


@pytest.fixture
def pictures():
    """Loss curves are drawn."""


def recipe_of(steps: int = 12, **changes: object) -> Recipe:
    return preset(
        "tiny",
        **{"context_length": 16, "tokens": steps * 4 * 16, "evaluation_tokens": 256} | changes,
    )


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus("argparse", [("argparse.py", Path(argparse.__file__).read_bytes()[:40_000])])


def losses(folder: Path) -> list[list[float]]:
    return [line["losses"] for line in read_log(folder) if "losses" in line]


def stored(folder: Path) -> dict[str, bytes]:
    """Everything that training carries from step to step."""
    read = checkpoint.read(folder)
    return {name: array.tobytes() for name, array in (read.parameters | read.optimizer).items()} | {
        "step": read.step
    }


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("stop", [1, 6, 11])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, corpus, name, stop):
    recipe = recipe_of(**CONFIGURATIONS[name])
    train(recipe, corpus, tmp_path / "whole", threads=2, report=quiet)
    stopped = train(recipe, corpus, tmp_path / "parts", threads=2, stop_at_step=stop, report=quiet)
    assert (stopped.step, stopped.finished) == (stop, False)
    resumed = train(recipe, corpus, tmp_path / "parts", start=Start(resume=True), report=quiet)
    assert (resumed.step, resumed.finished) == (12, True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 12
    assert stored(tmp_path / "parts") == stored(tmp_path / "whole")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_branch_with_the_same_recipe_goes_on_as_the_stem_would_have(tmp_path, corpus, name):
    recipe = recipe_of(**CONFIGURATIONS[name])
    train(recipe, corpus, tmp_path / "whole", threads=1, report=quiet)
    train(recipe, corpus, tmp_path / "stem", threads=1, stop_at_step=7, report=quiet)
    train(
        recipe,
        corpus,
        tmp_path / "branch",
        start=Start(start_from=tmp_path / "stem", continue_schedule=True),
        threads=1,
        report=quiet,
    )
    assert stored(tmp_path / "branch") == stored(tmp_path / "whole")
    assert losses(tmp_path / "branch") == losses(tmp_path / "whole")[7:]


def test_a_branch_with_new_heads_begins_with_the_stems_next_loss_and_with_fresh_heads(
    tmp_path, corpus
):
    recipe = recipe_of()
    train(recipe, corpus, tmp_path / "stem", threads=1, report=quiet)
    with_heads = dataclasses.replace(
        recipe, heads="sequential", draft_depth=2, tokens=2 * recipe.tokens, decay_fraction=0.0
    )
    longer = dataclasses.replace(recipe, tokens=2 * recipe.tokens, decay_fraction=0.0)
    for name, branch in (("heads", with_heads), ("plain", longer)):
        train(
            branch,
            corpus,
            tmp_path / name,
            start=Start(start_from=tmp_path / "stem", continue_schedule=True),
            threads=1,
            report=quiet,
        )
    first, plain = losses(tmp_path / "heads")[0], losses(tmp_path / "plain")[0]
    assert first[0] == plain[0]
    assert len(first) == 3 and min(first[1:]) > first[0]
    assert checkpoint.read(tmp_path / "heads").step == 24


def test_fine_tuning_starts_a_schedule_of_its_own_from_the_other_runs_weights(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path / "first", threads=1, report=quiet)
    tuned = recipe_of(steps=5, heads="parallel", draft_depth=2, freeze_trunk=True)
    result = train(
        tuned,
        corpus,
        tmp_path / "tuned",
        start=Start(start_from=tmp_path / "first"),
        threads=1,
        report=quiet,
    )
    assert result.step == 5
    before, after = (
        checkpoint.read(tmp_path / "first").parameters,
        checkpoint.read(tmp_path / "tuned").parameters,
    )
    assert all(np.array_equal(array, after[f"trunk.{name}"]) for name, array in before.items())
    fresh = build_model(tuned, np.random.default_rng(tuned.seed))
    heads = [
        name
        for name, p in fresh.named_parameters()
        if name.startswith("heads.") and p.data.ndim == 2
    ]
    started = dict(fresh.named_parameters())
    assert not any(np.array_equal(after[name], started[name].data) for name in heads)


def test_a_frozen_trunk_stays_frozen_when_a_branch_brings_moments(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path / "stem", threads=1, report=quiet)
    frozen = recipe_of(steps=16, heads="parallel", draft_depth=2, freeze_trunk=True)
    train(
        frozen,
        corpus,
        tmp_path / "b",
        start=Start(start_from=tmp_path / "stem", continue_schedule=True),
        threads=2,
        report=quiet,
    )
    before, after = (
        checkpoint.read(tmp_path / "stem").parameters,
        checkpoint.read(tmp_path / "b").parameters,
    )
    assert all(np.array_equal(array, after[f"trunk.{name}"]) for name, array in before.items())


def test_a_batch_on_two_threads_gives_the_losses_and_gradients_of_one(corpus):
    recipe = recipe_of(batch_size=3, heads="parallel", draft_depth=2)
    batch = corpus.batch(0, seed=0, batch_size=3, context_length=16, depth=2)
    results = []
    for shards in (1, 2, 5):
        trainer = Trainer(recipe, None, CPU, shards)
        losses_, rate, norm = trainer.advance(batch)
        trainer.close()
        results.append([*losses_, rate, norm])
        assert trainer.shards == min(shards, 3)
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[2] == pytest.approx(results[0], rel=1e-5)


def test_rounding_begins_at_its_step_and_not_before(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path / "plain", threads=1, report=quiet)
    train(
        recipe_of(quantization="qat", quantize_from=0.5),
        corpus,
        tmp_path / "qat",
        threads=1,
        report=quiet,
    )
    plain, rounded = losses(tmp_path / "plain"), losses(tmp_path / "qat")
    assert plain[:6] == rounded[:6]
    assert plain[6] != rounded[6]


@pytest.mark.parametrize("scales", ["learned", "learned-offset", "learned-bound"])
def test_learned_steps_are_averaged_from_where_they_begin_and_not_from_zero(corpus, scales):
    grid = "q4_1" if scales == "learned-offset" else "int3-ggml-signed-g32"
    rounded = {
        "quantization": "qat",
        "quantize_from": 0.5,
        "weight_scales": scales,
        "weight_grid": grid,
    }
    recipe = recipe_of(**rounded, ema_decay=0.9, learning_rate=1e-9)  # what is learned hardly moves
    trainer = Trainer(recipe, None, CPU, 1)
    for step in range(11):
        trainer.advance(corpus.batch(step, seed=0, batch_size=4, context_length=16))
    learned = {name: parameter.data for name, parameter in trainer.model.named_parameters()}
    for kind in ("log_steps", "offsets") if scales == "learned-offset" else ("log_steps",):
        found = {name: array for name, array in learned.items() if name.endswith(kind)}
        assert (
            max(np.abs(array).max() for array in found.values()) > 0.05
        )  # they do not begin at zero
        for name, array in found.items():
            np.testing.assert_allclose(trainer.average.state()[f"average.{name}"], array, atol=1e-6)
    trainer.close()


def test_the_gradient_is_clipped_to_the_recipes_norm_unless_that_is_zero(corpus):
    for clip in (0.01, 0.0):
        trainer = Trainer(recipe_of(max_gradient_norm=clip), None, CPU, 1)
        _, _, norm = trainer.advance(corpus.batch(0, seed=0, batch_size=4, context_length=16))
        assert norm > 0.01
        seen = float(np.linalg.norm(trainer.optimizer.first)) / (1 - 0.9)
        assert seen == pytest.approx(clip or norm, rel=1e-4)


def test_what_can_be_learned_is_learned(tmp_path):
    corpus = Corpus("alphabet", [("alphabet", b"abcdefghijklmnopqrstuvwxyz" * 400)])
    recipe = recipe_of(
        steps=120, heads="token_conditioned", draft_depth=2, quantization="qat", quantize_from=0.5
    )
    result = train(recipe, corpus, tmp_path / "run", report=quiet)
    assert result.evaluation.bits_per_byte < 0.5
    assert min(result.evaluation.accuracy) > 0.9
    assert min(result.evaluation.acceptance) > 0.9


def test_the_evaluation_kept_with_a_checkpoint_is_of_its_own_step_or_says_of_which(
    tmp_path, corpus, monkeypatch
):
    recipe, advance = recipe_of(checkpoint_every=5), Trainer.advance

    def killed(trainer, tokens):
        if trainer.step == 6:
            raise MemoryError
        return advance(trainer, tokens)

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(Trainer, "advance", killed)
        train(recipe, corpus, tmp_path, threads=1, report=quiet)
    kept = checkpoint.read(tmp_path)
    assert (kept.step, kept.state["evaluated_at"]) == (5, 5)
    assert kept.state["evaluation"] == evaluate(load_run(tmp_path), corpus).to_dict()
    stopped = train(
        recipe, corpus, tmp_path, start=Start(resume=True), stop_at_step=7, report=quiet
    )
    assert (stopped.step, stopped.evaluated_at, stopped.evaluation.to_dict()) == (
        7,
        5,
        kept.state["evaluation"],
    )
    finished = train(recipe, corpus, tmp_path, start=Start(resume=True), report=quiet)
    assert (finished.step, finished.evaluated_at, finished.evaluation) == (
        12,
        12,
        evaluate(load_run(tmp_path), corpus),
    )


@pytest.mark.parametrize(
    ("every", "reached"), [(5, 5), (0, 12)], ids=["while it trains", "at its end"]
)
def test_a_run_that_is_killed_while_it_evaluates_loses_no_step(
    tmp_path, corpus, monkeypatch, every, reached
):
    recipe = recipe_of(checkpoint_every=every)
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr("minimtp.training.run.loop.evaluate_model", Mock(side_effect=MemoryError))
        train(recipe, corpus, tmp_path, threads=1, report=quiet)
    assert checkpoint.read(tmp_path).step == reached
    assert train(recipe, corpus, tmp_path, start=Start(resume=True), report=quiet).finished


def test_whoever_stops_a_run_does_not_wait_for_the_evaluation_that_is_due(
    tmp_path, corpus, monkeypatch
):
    advance = Trainer.advance

    def advance_and_be_interrupted(trainer, tokens):
        if trainer.step == 4:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer, tokens)

    monkeypatch.setattr(Trainer, "advance", advance_and_be_interrupted)
    monkeypatch.setattr(
        "minimtp.training.run.loop.evaluate_model", lambda *arguments: pytest.fail("evaluated")
    )
    with pytest.raises(Interrupted, match="stopped at step 5"):
        train(recipe_of(checkpoint_every=5), corpus, tmp_path, threads=1, report=quiet)
    assert checkpoint.read(tmp_path).step == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    tmp_path, corpus, monkeypatch, number
):
    recipe, advance = recipe_of(), Trainer.advance
    train(recipe, corpus, tmp_path / "whole", threads=1, report=quiet)

    def advance_and_be_interrupted(trainer, tokens):
        if trainer.step == 4:
            signal.raise_signal(number)
        return advance(trainer, tokens)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", advance_and_be_interrupted)
        with pytest.raises(
            Interrupted, match="stopped at step 5 of 12, saved in .*minimtp train --out .* --resume"
        ):
            train(recipe, corpus, tmp_path / "run", threads=1, report=quiet)
    assert checkpoint.read(tmp_path / "run").step == 5
    train(recipe, corpus, tmp_path / "run", start=Start(resume=True), report=quiet)
    assert stored(tmp_path / "run") == stored(tmp_path / "whole")


@pytest.mark.parametrize(
    "moment", ["last step of the stage", "last step of the run", "final evaluation"]
)
def test_a_signal_at_the_very_end_still_stops_what_would_come_next(
    tmp_path, corpus, monkeypatch, moment
):
    def interrupted(function, at):
        def call(*arguments):
            if at is None or arguments[0].step == at:
                signal.raise_signal(signal.SIGINT)
            return function(*arguments)

        return call

    at = {"last step of the stage": 6, "last step of the run": 11}.get(moment)
    place = (
        "minimtp.training.run.loop.evaluate_model"
        if at is None
        else "minimtp.training.trainer.Trainer.advance"
    )
    monkeypatch.setattr(place, interrupted(evaluate_model if at is None else Trainer.advance, at))
    with pytest.raises(
        Interrupted, match="stopped at step 7 of 12" if at == 6 else "the run is finished and saved"
    ):
        train(
            recipe_of(),
            corpus,
            tmp_path,
            stop_at_step=7 if at == 6 else None,
            threads=1,
            report=quiet,
        )
    assert checkpoint.read(tmp_path).step == (7 if at == 6 else 12)
    assert train(None, corpus, tmp_path, start=Start(resume=True), report=quiet).evaluation


def test_a_second_signal_stops_at_once():
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job begins with it ignored
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_as_before_after_training_and_untouched_in_other_threads():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
    seen = []

    def elsewhere() -> None:
        with StopRequest():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("finished", [True, False])
def test_an_existing_run_is_never_written_over_unless_it_is_resumed(tmp_path, corpus, finished):
    recipe, run = recipe_of(), tmp_path / "run"
    train(recipe, corpus, run, stop_at_step=None if finished else 5, report=quiet)
    before = digest(run)
    words = (
        "already holds a finished run: choose another"
        if finished
        else "a run at step 5 of 12: add --resume"
    )
    with pytest.raises(UserError, match=words):
        train(recipe, corpus, run, report=quiet)
    assert digest(run) == before


def test_resuming_a_finished_run_changes_nothing_and_returns_its_evaluation(tmp_path, corpus):
    first = train(recipe_of(), corpus, tmp_path, report=quiet)
    before = digest(tmp_path)
    again = train(recipe_of(), corpus, tmp_path, start=Start(resume=True), report=quiet)
    assert again == first
    assert digest(tmp_path) == before


def test_a_run_without_a_checkpoint_is_started_over_by_resume_only(tmp_path, corpus):
    RunLog(tmp_path, 0).__exit__()
    with pytest.raises(UserError, match="holds a run without a checkpoint: add --resume"):
        train(recipe_of(), corpus, tmp_path, report=quiet)
    with pytest.raises(UserError, match="repeat its whole command with --resume"):
        train(None, corpus, tmp_path, start=Start(resume=True), report=quiet)
    assert train(recipe_of(), corpus, tmp_path, start=Start(resume=True), report=quiet).finished


def test_a_resumed_run_insists_on_its_recipe_and_its_text(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path, stop_at_step=3, report=quiet)
    before = digest(tmp_path)
    with pytest.raises(UserError, match="has learning_rate 0.01, not 0.02"):
        train(
            recipe_of(learning_rate=0.02), corpus, tmp_path, start=Start(resume=True), report=quiet
        )
    with pytest.raises(UserError, match="resume with the same text"):
        train(
            recipe_of(),
            Corpus("other", [("other", b"x" * 9000)]),
            tmp_path,
            start=Start(resume=True),
            report=quiet,
        )
    assert digest(tmp_path) == before


def test_a_run_is_not_resumed_from_a_checkpoint_that_lacks_a_part(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path, stop_at_step=3, report=quiet)
    incomplete = checkpoint.read(tmp_path)
    del incomplete.parameters["final_norm.weight"]
    checkpoint.write(tmp_path, incomplete)
    with pytest.raises(UserError, match="lacks final_norm.weight"):
        train(recipe_of(), corpus, tmp_path, start=Start(resume=True), report=quiet)


def test_a_run_finds_its_text_again_by_itself(tmp_path):
    (tmp_path / "poem.txt").write_bytes(b"roses are red, violets are blue, " * 100)
    train(recipe_of(), [tmp_path / "poem.txt"], tmp_path / "run", stop_at_step=3, report=quiet)
    assert train(None, (), tmp_path / "run", start=Start(resume=True), report=quiet).finished


def test_a_run_that_starts_from_another_reads_its_text_with_its_tokenizer_and_no_other(
    tmp_path, monkeypatch
):
    class Backwards(ByteTokenizer):
        def to_dict(self):
            return {"kind": "backwards"}

    def from_dict(stored):
        return Backwards() if stored["kind"] == "backwards" else ByteTokenizer()

    monkeypatch.setattr("minimtp.training.run.start.tokenizer_from_dict", from_dict)
    (tmp_path / "poem.txt").write_bytes(b"roses are red, violets are blue, " * 100)
    (tmp_path / "other.txt").write_bytes(b"sugar is sweet and so are you, " * 100)
    source = tmp_path / "source"
    train(
        recipe_of(2),
        [tmp_path / "poem.txt"],
        source,
        start=Start(tokenizer=Backwards()),
        report=quiet,
    )
    train(recipe_of(2), (), tmp_path / "same", start=Start(start_from=source), report=quiet)
    train(
        recipe_of(2),
        [tmp_path / "other.txt"],
        tmp_path / "new",
        start=Start(start_from=source),
        report=quiet,
    )
    began, same, new = (checkpoint.read(tmp_path / name) for name in ("source", "same", "new"))
    assert same.corpus == began.corpus and new.corpus["sources"] == [
        str((tmp_path / "other.txt").resolve())
    ]
    assert same.tokenizer == new.tokenizer == {"kind": "backwards"}
    with pytest.raises(UserError, match="belong to another tokenizer: leave out --tokenizer"):
        train(
            recipe_of(2),
            (),
            tmp_path / "no",
            start=Start(start_from=source, tokenizer=ByteTokenizer()),
            report=quiet,
        )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("loaded_before", "settings", "words"),
    [
        (True, {}, "BLAS may use its own as well"),
        (True, {"OMP_NUM_THREADS": "1"}, ""),
        (
            True,
            {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"},
            "BLAS may use its own as well",
        ),
        (True, {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, ""),
        (False, {}, ""),
    ],
)
def test_the_line_about_threads_says_when_blas_may_use_its_own(
    tmp_path, corpus, monkeypatch, loaded_before, settings, words
):
    for variable in backend.BLAS_THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(backend, "NUMPY_WAS_LOADED_BEFORE", loaded_before)
    said = []
    train(recipe_of(1), corpus, tmp_path, threads=1, report=said.append)
    line = next(line for line in said if line.startswith("threads"))
    assert words in line if words else line.endswith("share of the batch")


def test_a_log_line_is_written_for_every_step_once_even_after_a_crash(tmp_path, corpus):
    recipe = recipe_of(checkpoint_every=5)
    train(recipe, corpus, tmp_path, stop_at_step=7, report=quiet)
    with open(
        tmp_path / "log.jsonl", "a"
    ) as log:  # as if the process had been killed while it wrote step 9
        log.write('{"step": 8, "tokens": 512, "losses": [1.0]}\n{"step": 9, "tok')
    train(recipe, corpus, tmp_path, start=Start(resume=True), report=quiet)
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines if "losses" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "evaluation" in line] == [5, 10, 12]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    assert seconds == sorted(seconds)
    for line in lines:
        assert line["tokens"] == line["step"] * 64
        assert json.loads(json.dumps(line, allow_nan=False)) == line


def test_the_log_says_null_for_a_head_that_was_not_trained(tmp_path, corpus):
    train(
        recipe_of(heads="parallel", draft_depth=2, curriculum="forward"),
        corpus,
        tmp_path,
        report=quiet,
    )
    assert [sum(loss is not None for loss in line) for line in losses(tmp_path)] == [1] * 4 + [
        2
    ] * 4 + [3] * 4


def test_the_schedule_in_the_log_is_that_of_the_recipe(tmp_path, corpus):
    recipe = recipe_of()
    train(recipe, corpus, tmp_path, report=quiet)
    logged = [line["learning_rate"] for line in read_log(tmp_path) if "losses" in line]
    assert logged == [schedule.learning_rate(recipe, step) for step in range(12)]


def test_a_loss_that_is_no_number_ends_the_run_with_advice_and_the_last_good_checkpoint(
    tmp_path, corpus, monkeypatch
):
    recipe, advance = recipe_of(checkpoint_every=4), Trainer.advance

    def diverge(trainer, tokens):
        losses_, rate, norm = advance(trainer, tokens)
        return (losses_ * math.nan if trainer.step == 7 else losses_), rate, norm

    monkeypatch.setattr(Trainer, "advance", diverge)
    with pytest.raises(UserError, match="the loss is nan and .* at step 7: lower learning_rate"):
        train(recipe, corpus, tmp_path, report=quiet)
    assert checkpoint.read(tmp_path).step == 4


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"vocabulary_size": 300}, {}, "vocabulary_size is 300, but the tokenizer has 257"),
        (
            {"context_length": 1024, "tokens": 40 * 1024, "batch_size": 40},
            {},
            "one batch of 40 x 1024 needs 40,960 tokens",
        ),
        ({}, {"threads": 0}, "threads must be at least 1"),
        ({}, {"start": Start(start_from="missing")}, "there is no run folder missing"),
        ({}, {"start": Start(resume=True)}, "there is no run to resume"),
        ({}, {"stop_at_step": 0}, "stop_at_step"),
        ({}, {"start": Start(teacher="missing")}, "a teacher needs a distill_weight"),
        ({"distill_weight": 0.5}, {}, "distill_weight needs a teacher"),
        (
            {"heads": "parallel", "draft_depth": 1, "head_targets": "teacher"},
            {},
            "head_targets teacher needs a teacher",
        ),
        (
            {"distill_weight": 0.5},
            {"start": Start(teacher="missing")},
            "there is no run folder .*missing",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path, corpus, changes, options, words
):
    with pytest.raises(UserError, match=words):
        train(recipe_of(**changes), corpus, tmp_path / "run", report=quiet, **options)
    assert not (tmp_path / "run").exists()


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary_in_bits(corpus):
    model = build_model(recipe_of(), np.random.default_rng(0))
    model.embedding.weight.data[...] = 0  # tied: all logits are equal
    result = evaluate_model(model, corpus, 16, 512)
    assert result.bits_per_byte == pytest.approx(math.log2(257), rel=1e-6)
    assert result.nats == pytest.approx([math.log(257)])
    assert (result.tokens, result.bytes) == (512, 512)


def test_bits_per_byte_are_per_byte_of_text_and_not_per_token():
    documents = Corpus("short documents", [(str(n), b"x" * 9) for n in range(200)])
    model = build_model(recipe_of(), np.random.default_rng(0))
    model.embedding.weight.data[...] = 0
    result = evaluate_model(
        model, documents, 10, 100
    )  # every tenth token ends a document and stands for no byte
    assert result.bytes == result.tokens * 9 // 10
    assert result.bits_per_byte == pytest.approx(math.log2(257) / 0.9, rel=1e-6)


def test_the_bytes_that_count_are_those_of_the_predicted_tokens():
    poem = Corpus("poem", [("poem", b"x" * 100)])  # ten bytes are held out, then the text ends
    model = build_model(recipe_of(), np.random.default_rng(0))
    result = evaluate_model(model, poem, 10, 10)
    assert (result.tokens, result.bytes) == (10, 9)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_evaluation_does_not_depend_on_the_number_of_threads(corpus, threads):
    model = build_model(recipe_of(heads="parallel", draft_depth=2), np.random.default_rng(0))
    assert evaluate_model(model, corpus, 16, 4000, threads) == evaluate_model(
        model, corpus, 16, 4000, 2
    )


def test_evaluating_a_folder_gives_what_training_said_at_its_end(tmp_path):
    (tmp_path / "poem.txt").write_bytes(b"roses are red, violets are blue, " * 100)
    for name in ("plain", "token-conditioned, rounded late"):
        result = train(
            recipe_of(**CONFIGURATIONS[name]),
            [tmp_path / "poem.txt"],
            tmp_path / name,
            report=quiet,
        )
        assert evaluate(load_run(tmp_path / name)) == result.evaluation


def test_rounding_a_finished_model_writes_a_smaller_run_that_evaluates_nearly_the_same(
    tmp_path, corpus
):
    train(recipe_of(heads="parallel", draft_depth=2), corpus, tmp_path / "run", report=quiet)
    exact = evaluate(load_run(tmp_path / "run"), corpus)
    for bits, most in ((4, 8.5), (8, 10)):
        packed = quantize(load_run(tmp_path / "run"), tmp_path / f"int{bits}", f"q{bits}_0")
        assert bits < bits_per_weight(packed.model) < most
        assert evaluate(load_run(tmp_path / f"int{bits}"), corpus).bits_per_byte == pytest.approx(
            exact.bits_per_byte, rel=0.02
        )
    with pytest.raises(UserError, match="already holds a checkpoint"):
        quantize(load_run(tmp_path / "run"), tmp_path / "int4")
    with pytest.raises(UserError, match="is quantized already"):
        quantize(load_run(tmp_path / "int4"), tmp_path / "twice")
    with pytest.raises(UserError, match="cannot be trained"):
        train(
            recipe_of(),
            corpus,
            tmp_path / "more",
            start=Start(start_from=tmp_path / "int4"),
            report=quiet,
        )
    with pytest.raises(UserError, match="cannot be trained"):
        train(None, corpus, tmp_path / "int4", start=Start(resume=True), report=quiet)


def test_heads_get_the_grid_whose_drafts_are_still_accepted(tmp_path, corpus, monkeypatch):
    train(recipe_of(heads="parallel", draft_depth=2), corpus, tmp_path / "run", report=quiet)
    counted = {"before": [0.8, 0.04], "q4_0": [0.785, 0.04], "q8_0": [0.7, None]}

    def acceptance(model, batches):
        grids = {
            module.grid.name for _, module in model.heads.named_modules() if hasattr(module, "grid")
        }
        return counted[grids.pop() if grids else "before"]

    monkeypatch.setattr("minimtp.training.quantize.acceptance", acceptance)
    said = []
    packed = quantize(
        load_run(tmp_path / "run"),
        tmp_path / "fine",
        head_grid="measured",
        calibration=corpus,
        report=said.append,
    )
    assert (packed.packed.weights, packed.packed.heads) == (
        "q4_0",
        "q8_0",
    )  # a hundredth is too much to lose
    assert said == [f"heads on {name}: acceptance {now} (before: 80.0% 4.0%)" for name, now in
                    (("q4_0", "78.5% 4.0%"), ("q8_0", "70.0% ?"))]  # fmt: skip
    counted["q4_0"], said = [0.791, 0.035], []
    packed = quantize(
        load_run(tmp_path / "run"),
        tmp_path / "coarse",
        head_grid="measured",
        calibration=corpus,
        report=said.append,
    )
    assert (
        packed.packed.heads == "q4_0"
        and len(said) == 2
        and said[1].startswith("warning: head 2 is dead: 3.5%")
    )


def test_the_grid_of_trained_heads_is_the_cheapest_that_keeps_what_evaluating_finds_them_to_be_worth(
    tmp_path, corpus
):
    """Nothing is pretended here: a small model that has learned something, heads rounded and measured, and measured again."""
    train(
        recipe_of(steps=150, heads="token_conditioned", draft_depth=3),
        corpus,
        tmp_path / "run",
        report=quiet,
    )
    run, batches = load_run(tmp_path / "run"), calibration_batches(corpus, 16, 3)
    before = acceptance(run.model, batches)
    assert before[0] > 0.3  # these heads draft
    chosen = {}
    for grid in ("int2-restricted-g32", "q4_0", "q8_0"):
        said = []
        found = quantize(
            run, tmp_path / grid, grid, head_grid="measured", calibration=corpus, report=said.append
        )
        chosen[grid] = found.packed.heads
        worth = {}
        for heads in {grid, "q8_0"}:
            packed = quantize(run, tmp_path / f"{grid} {heads}", grid, head_grid=heads)
            worth[heads] = acceptance(packed.model, batches)
        kept = all(
            now >= then - MAX_LOST_ACCEPTANCE for now, then in zip(worth[grid], before, strict=True)
        )
        assert chosen[grid] == (grid if kept else "q8_0")
        same = load_run(tmp_path / f"{grid} {chosen[grid]}").model
        assert [a.tobytes() for a in stored_arrays(found.model).values()] == [
            a.tobytes() for a in stored_arrays(same).values()
        ]
        assert said[0].startswith(f"heads on {grid}: acceptance {worth[grid][0]:.1%}")
        assert f"(before: {before[0]:.1%}" in said[0]
        assert len([line for line in said if line.startswith("heads on")]) == len(
            {grid, chosen[grid]}
        )
    assert chosen["int2-restricted-g32"] == "q8_0"


def test_acceptance_is_counted_as_evaluating_does(tmp_path, corpus):
    train(
        recipe_of(heads="token_conditioned", draft_depth=2), corpus, tmp_path / "run", report=quiet
    )
    model, windows = (
        load_run(tmp_path / "run").model,
        corpus.validation_windows(256, context_length=16, depth=2),
    )
    assert (
        acceptance(model, np.array_split(windows, 3))
        == evaluate_model(model, corpus, 16, 256).acceptance
    )


def test_a_grid_for_heads_is_refused_where_there_are_none_or_where_they_were_trained_for_another(
    tmp_path, corpus
):
    train(recipe_of(), corpus, tmp_path / "plain", report=quiet)
    with pytest.raises(UserError, match="has no prediction heads: leave out --head-grid"):
        quantize(load_run(tmp_path / "plain"), tmp_path / "out", head_grid="q8_0")
    recipe = recipe_of(heads="parallel", draft_depth=1, quantization="qat")
    train(recipe, corpus, tmp_path / "qat", report=quiet)
    with pytest.raises(UserError, match="was trained for q4_0 heads: leave out --head-grid"):
        quantize(load_run(tmp_path / "qat"), tmp_path / "out", head_grid="measured")
    with pytest.raises(UserError, match="was trained with quantization: leave out --method"):
        quantize(load_run(tmp_path / "qat"), tmp_path / "out", method="gptq")
    assert not (tmp_path / "out").exists()


def test_a_run_trained_through_rounding_is_packed_on_its_own_grids(tmp_path, corpus):
    result = train(
        recipe_of(quantization="qat", weight_grid="q8_0"), corpus, tmp_path / "run", report=quiet
    )
    with pytest.raises(UserError, match="was trained for q8_0 weights: leave out --grid"):
        quantize(load_run(tmp_path / "run"), tmp_path / "int4", "q4_0")
    assert quantize(load_run(tmp_path / "run"), tmp_path / "packed").packed.weights == "q8_0"
    packed = evaluate(load_run(tmp_path / "packed"), corpus)
    assert packed.bits_per_byte == pytest.approx(result.evaluation.bits_per_byte, rel=1e-5)


def test_a_student_follows_its_teacher_and_finds_it_again_when_resumed(tmp_path, corpus):
    train(recipe_of(steps=60), corpus, tmp_path / "teacher", threads=1, report=quiet)
    student, options = (
        recipe_of(seed=1, distill_weight=1.0),
        {"start": Start(teacher=tmp_path / "teacher"), "threads": 2, "report": quiet},
    )
    train(student, corpus, tmp_path / "whole", **options)
    train(student, corpus, tmp_path / "parts", stop_at_step=5, **options)
    train(student, corpus, tmp_path / "parts", start=Start(resume=True), report=quiet)
    assert stored(tmp_path / "parts") == stored(tmp_path / "whole")

    def divergence(name: str) -> float:
        tokens = corpus.validation_windows(512, context_length=16)[:, :-1]
        with no_grad():
            logits = [
                model.logits(model.hidden(tokens)).data
                for model in (load_run(tmp_path / n).model for n in ("teacher", name))
            ]
        p, q = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in logits)
        return float((p * np.log(p / q)).sum(axis=-1).mean())

    train(recipe_of(seed=1), corpus, tmp_path / "alone", threads=2, report=quiet)
    assert divergence("whole") < divergence("alone")


@pytest.mark.usefixtures("pictures")
@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs the extra plots (matplotlib)"
)
@pytest.mark.parametrize(
    "changes", [{}, {"heads": "parallel", "draft_depth": 2, "curriculum": "forward"}], ids=str
)
def test_the_loss_curve_is_drawn_beside_the_log(tmp_path, corpus, changes):
    train(recipe_of(**changes), corpus, tmp_path, report=quiet)
    assert (tmp_path / picture.FILE_NAME).read_bytes().startswith(b"\x89PNG")


def test_nobody_misses_the_loss_curve_where_matplotlib_is_not_installed(
    tmp_path, corpus, monkeypatch
):
    train(recipe_of(), corpus, tmp_path, report=quiet)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert picture.draw_losses(tmp_path) is None


def test_a_smoothed_curve_lies_within_its_values_and_starts_at_the_first():
    values = [3.0, 2.0, 2.5, 1.0]
    smooth = picture._smoothed(values)
    assert smooth[0] == pytest.approx(3.0)
    assert all(1.0 <= value <= 3.0 for value in smooth)
    assert picture._smoothed([2.0] * 5) == pytest.approx([2.0] * 5)


def test_a_dead_head_is_a_warning_that_names_it_and_says_what_to_do():
    alive, shares = [0.8, None, 0.05], [0.8, 0.049, None, 0.0]
    assert dead_heads(alive) == []
    warnings = dead_heads(shares)
    assert [sentence.split(":")[1] for sentence in warnings] == [
        " head 2 is dead",
        " head 4 is dead",
    ]
    assert (
        "4.9% of its drafts are accepted, under 5%" in warnings[0]
        and "draft at most 1" in warnings[0]
    )
    described = Evaluation(1.0, [0.5] * 5, shares, [1.0] * 5, 8, 8).describe().splitlines()
    assert described[-2:] == warnings
