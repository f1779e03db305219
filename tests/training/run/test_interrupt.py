"""The first signal finishes the step and saves the run. The second stops it at once."""

import signal
import threading

import pytest

from minimtp.training.evaluate import evaluate_model
from minimtp.training.run import checkpoint
from minimtp.training.run.interrupt import SIGNALS, Interrupted, StopRequest
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.trainer import Trainer
from tests.training.helpers import quiet, recipe_of, stored


@pytest.fixture(autouse=True)
def heard():
    """No signal is ignored, even if these tests run under nohup or in the background."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_stopped_run_skips_the_evaluation_that_is_due(tmp_path, corpus, monkeypatch):
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


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_finishes_the_step_saves_and_prints_how_to_resume(
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
def test_a_signal_in_the_last_step_still_raises_interrupted(tmp_path, corpus, monkeypatch, moment):
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
    )  # a background job of a shell starts with this signal ignored
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_that_the_process_ignores_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)  # as nohup does, and a shell for background jobs
    try:
        with StopRequest() as stop:
            signal.raise_signal(number)
        assert not stop.requested
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_signal_handlers_are_restored_and_unchanged_in_other_threads():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    seen = []

    def elsewhere() -> None:
        with StopRequest():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]
