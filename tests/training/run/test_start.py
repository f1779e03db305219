"""A run starts anew, resumes bit for bit or branches from another run, and is never overwritten."""

import dataclasses

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.training.build import build_model
from minimtp.training.data.corpus import Corpus
from minimtp.training.run import checkpoint
from minimtp.training.run.log import RunLog
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.tokenizers.tokenizer import ByteTokenizer
from tests.training.helpers import CONFIGURATIONS, digest, losses, quiet, recipe_of, stored


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
def test_a_branch_with_the_same_recipe_continues_as_the_stem_would_have(tmp_path, corpus, name):
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


def test_a_branch_with_new_heads_starts_with_the_next_loss_of_the_stem_and_fresh_heads(
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


def test_fine_tuning_loads_the_weights_and_starts_its_own_schedule(tmp_path, corpus):
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


def test_a_frozen_trunk_stays_frozen_when_a_branch_loads_moments(tmp_path, corpus):
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


@pytest.mark.parametrize("finished", [True, False])
def test_an_existing_run_is_never_overwritten_unless_it_is_resumed(tmp_path, corpus, finished):
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


def test_a_run_without_a_checkpoint_is_only_started_over_with_resume(tmp_path, corpus):
    RunLog(tmp_path, 0).__exit__()
    with pytest.raises(UserError, match="holds a run without a checkpoint: add --resume"):
        train(recipe_of(), corpus, tmp_path, report=quiet)
    with pytest.raises(UserError, match="repeat its whole command with --resume"):
        train(None, corpus, tmp_path, start=Start(resume=True), report=quiet)
    assert train(recipe_of(), corpus, tmp_path, start=Start(resume=True), report=quiet).finished


def test_a_resumed_run_requires_its_recipe_and_its_text(tmp_path, corpus):
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


def test_a_checkpoint_that_lacks_an_array_cannot_be_resumed(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path, stop_at_step=3, report=quiet)
    incomplete = checkpoint.read(tmp_path)
    del incomplete.parameters["final_norm.weight"]
    checkpoint.write(tmp_path, incomplete)
    with pytest.raises(UserError, match="lacks final_norm.weight"):
        train(recipe_of(), corpus, tmp_path, start=Start(resume=True), report=quiet)


def test_a_resumed_run_opens_its_own_text(tmp_path):
    (tmp_path / "poem.txt").write_bytes(b"roses are red, violets are blue, " * 100)
    train(recipe_of(), [tmp_path / "poem.txt"], tmp_path / "run", stop_at_step=3, report=quiet)
    assert train(None, (), tmp_path / "run", start=Start(resume=True), report=quiet).finished


def test_a_branch_uses_the_text_and_the_tokenizer_of_its_source(tmp_path, monkeypatch):
    class Backwards(ByteTokenizer):
        def encode(self, text, special=False):
            return 255 - super().encode(text)

        def decode_bytes(self, tokens):
            return super().decode_bytes([255 - token for token in tokens if token < 256])

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
    folder = {"folder": str((tmp_path / "same").resolve())}
    assert same.corpus == began.corpus | folder and new.corpus["sources"] == [
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
