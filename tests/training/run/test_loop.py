"""The training loop learns, evaluates, saves checkpoints and can resume after a crash."""

import math
from unittest.mock import Mock

import pytest

from minimtp.errors import UserError
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate, evaluate_model
from minimtp.training.run import checkpoint
from minimtp.training.run.folder import load_run
from minimtp.training.run.log import read_log
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.trainer import Trainer
from tests.training.helpers import quiet, recipe_of


def test_a_predictable_text_is_learned(tmp_path):
    corpus = Corpus("alphabet", [("alphabet", b"abcdefghijklmnopqrstuvwxyz" * 400)])
    recipe = recipe_of(
        steps=120, heads="token_conditioned", draft_depth=2, quantization="qat", quantize_from=0.5
    )
    result = train(recipe, corpus, tmp_path / "run", report=quiet)
    assert result.evaluation.bits_per_byte < 0.5
    assert min(result.evaluation.accuracy) > 0.9
    assert min(result.evaluation.acceptance) > 0.9


def test_a_checkpoint_stores_the_last_evaluation_and_its_step(tmp_path, corpus, monkeypatch):
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
def test_a_run_killed_during_an_evaluation_resumes_without_losing_a_step(
    tmp_path, corpus, monkeypatch, every, reached
):
    recipe = recipe_of(checkpoint_every=every)
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr("minimtp.training.run.loop.evaluate_model", Mock(side_effect=MemoryError))
        train(recipe, corpus, tmp_path, threads=1, report=quiet)
    assert checkpoint.read(tmp_path).step == reached
    assert train(recipe, corpus, tmp_path, start=Start(resume=True), report=quiet).finished


@pytest.mark.parametrize("changes", [{}, {"quantization": "qat", "quantize_from": 0.4}], ids=str)
@pytest.mark.parametrize("killed_at", [1, 2, 3], ids=["step 5", "step 10", "the last step"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_evaluation_that_a_kill_prevented_is_done_when_the_run_is_resumed(
    tmp_path, corpus, monkeypatch, changes, killed_at, moment
):
    """The log and the stored evaluation are those of a run that was never stopped.

    moment: the kill comes before the evaluation, or after it was logged, before it was saved.
    """
    recipe = recipe_of(checkpoint_every=5, **changes)
    whole = train(recipe, corpus, tmp_path / "whole", threads=1, report=quiet)
    calls, write = Mock(), checkpoint.write

    def killed(*arguments):
        calls()
        if calls.call_count == killed_at and moment == "before":
            raise MemoryError
        return evaluate_model(*arguments)

    def write_unless_killed(folder, stored):
        if stored.state.get("evaluated_at") == stored.step and calls.call_count == killed_at:
            raise MemoryError
        write(folder, stored)

    run = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr("minimtp.training.run.loop.evaluate_model", killed)
        if moment == "after":
            patched.setattr(checkpoint, "write", write_unless_killed)
        train(recipe, corpus, run, threads=1, report=quiet)
    resumed = train(None, corpus, run, start=Start(resume=True), threads=1, report=quiet)
    assert resumed.evaluation == whole.evaluation and resumed.evaluated_at == 12
    logs = [read_log(folder) for folder in (tmp_path / "whole", run)]
    assert [[{**line, "seconds": 0} for line in log] for log in logs] == [
        [{**line, "seconds": 0} for line in logs[0]]
    ] * 2
    again = train(None, corpus, run, start=Start(resume=True), threads=1, report=quiet)
    assert again.evaluation == whole.evaluation


def test_a_nan_loss_ends_the_run_with_advice_and_keeps_the_last_checkpoint(
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
