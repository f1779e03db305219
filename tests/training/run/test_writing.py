"""A run folder has one writer, and whatever happens to the folder costs one sentence."""

import shutil

import pytest

from minimtp.errors import UserError
from minimtp.training.quantize import quantize
from minimtp.training.run import checkpoint
from minimtp.training.run.folder import load_run
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.trainer import Trainer
from tests.training.helpers import losses, quiet, recipe_of


def at_step(monkeypatch, step, action):
    """Call `action` before the step that follows `step`."""
    advance = Trainer.advance

    def act_and_advance(trainer, tokens):
        if trainer.step == step:
            action()
        return advance(trainer, tokens)

    monkeypatch.setattr(Trainer, "advance", act_and_advance)


@pytest.mark.parametrize("command", ["train", "resume", "quantize"])
def test_a_second_command_in_a_run_folder_is_refused_and_the_first_one_goes_on(
    tmp_path, corpus, monkeypatch, command
):
    recipe, run = recipe_of(checkpoint_every=3), tmp_path / "run"
    train(recipe, corpus, tmp_path / "alone", threads=1, report=quiet)
    refused = []

    def second():
        with pytest.raises(UserError, match="run is being written by process") as error:
            if command == "quantize":
                quantize(load_run(tmp_path / "alone"), run)
            else:
                train(recipe, corpus, run, Start(resume=command == "resume"), report=quiet)
        refused.append(str(error.value))

    at_step(monkeypatch, 5, second)
    train(recipe, corpus, run, threads=1, report=quiet)
    assert len(refused) == 1 and len(refused[0]) <= 300
    assert losses(run) == losses(tmp_path / "alone")
    assert {path.name for path in run.iterdir()} == {
        "checkpoint.safetensors", "recipe.json", "log.jsonl"
    }  # fmt: skip


@pytest.mark.parametrize("what", ["deleted", "moved"])
def test_a_folder_that_is_deleted_or_moved_while_training_ends_the_run_with_its_name(
    tmp_path, corpus, monkeypatch, what
):
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        change = shutil.rmtree if what == "deleted" else lambda path: path.rename(tmp_path / "new")
        at_step(patched, 7, lambda: change(run))
        with pytest.raises(UserError, match="folder .*run was deleted or moved") as error:
            train(recipe_of(checkpoint_every=3), corpus, run, threads=1, report=quiet)
    assert "disk space" not in str(error.value) and "room" not in str(error.value)
    assert not run.exists()
    if what == "moved":
        assert checkpoint.read(tmp_path / "new").step == 6
        start = Start(resume=True)
        train(recipe_of(checkpoint_every=3), corpus, tmp_path / "new", start, report=quiet)
        train(recipe_of(checkpoint_every=3), corpus, run, threads=1, report=quiet)
        assert losses(tmp_path / "new") == losses(run)


def test_a_log_that_is_deleted_while_training_is_begun_again(tmp_path, corpus, monkeypatch):
    at_step(monkeypatch, 7, lambda: (tmp_path / "log.jsonl").unlink())
    assert train(recipe_of(), corpus, tmp_path, threads=1, report=quiet).finished
    assert len(losses(tmp_path)) == 5


def test_a_recipe_of_the_users_in_a_new_run_folder_is_refused_before_training(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path / "run", threads=1, report=quiet)
    edited = (tmp_path / "run" / "recipe.json").read_text().replace("0.01", "0.02")
    for content, words in (
        ('{"hidden_size": 64}', "exists and is not .* that minimtp wrote"),
        (edited, "would be replaced: choose another --out"),
    ):
        recipe = tmp_path / "new" / "recipe.json"
        recipe.parent.mkdir(exist_ok=True)
        recipe.write_text(content)
        for command in (
            lambda: train(recipe_of(), corpus, tmp_path / "new", report=quiet),
            lambda: quantize(load_run(tmp_path / "run"), tmp_path / "new"),
        ):
            with pytest.raises(UserError, match=f"recipe.json {words}"):
                command()
            assert list(recipe.parent.iterdir()) == [recipe] and recipe.read_text() == content
