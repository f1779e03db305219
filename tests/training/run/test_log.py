"""The log of a run."""

import json

from minimtp.training import schedule
from minimtp.training.run.log import read_log
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import losses, quiet, recipe_of


def test_the_log_has_one_line_per_step_even_after_a_crash(tmp_path, corpus):
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


def test_the_log_holds_null_for_a_head_that_was_not_trained(tmp_path, corpus):
    train(
        recipe_of(heads="parallel", draft_depth=2, curriculum="forward"),
        corpus,
        tmp_path,
        report=quiet,
    )
    assert [sum(loss is not None for loss in line) for line in losses(tmp_path)] == [1] * 4 + [
        2
    ] * 4 + [3] * 4


def test_the_logged_learning_rates_are_those_of_the_schedule(tmp_path, corpus):
    recipe = recipe_of()
    train(recipe, corpus, tmp_path, report=quiet)
    logged = [line["learning_rate"] for line in read_log(tmp_path) if "losses" in line]
    assert logged == [schedule.learning_rate(recipe, step) for step in range(12)]
