"""The log of a run."""

import json
import random

import pytest

from minimtp.training import schedule
from minimtp.training.run.log import LOG_NAME, RunLog, read_log
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.fuzz.mutate import damaged_bytes
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


@pytest.mark.parametrize(
    "spoilt",
    [b"\xff", b"[1]", b'{"tokens": 5}', b'{"step": "3", "tokens": 1}', b"{", b'{"step": NaN}',
     b'{"step": 3, "tokens": 1, "evaluation": {}}', b"[" * 100_000, b"x" * 2**21],
    ids=lambda line: str(line[:30]),
)  # fmt: skip
def test_a_damaged_line_of_the_log_is_left_out_and_no_other_is_lost(tmp_path, corpus, spoilt):
    train(recipe_of(checkpoint_every=5), corpus, tmp_path, stop_at_step=7, report=quiet)
    path, said = tmp_path / LOG_NAME, []
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:3], spoilt, *lines[3:], b""]))
    train(None, corpus, tmp_path, start=Start(resume=True), stop_at_step=8, report=said.append)
    assert f"{path}: left out 1 line that was damaged" in said
    assert path.read_bytes().splitlines()[: len(lines)] == lines
    assert len(read_log(tmp_path)) == len(lines) + 1


def test_lines_without_a_line_end_between_them_are_read_one_by_one(tmp_path):
    texts = [json.dumps({"step": k, "tokens": k}) for k in range(4)]
    (tmp_path / LOG_NAME).write_text(f"{texts[0]}\n{texts[1]}{texts[2]}\n\x00{texts[3]}")
    assert [line["step"] for line in read_log(tmp_path)] == [0, 1, 2, 3]


def test_every_mutant_of_a_log_is_read_and_keeps_the_lines_that_are_intact(tmp_path):
    good = [json.dumps({"step": k, "tokens": 8 * k, "losses": [1.5, None]}) for k in range(20)]
    path, rng = tmp_path / LOG_NAME, random.Random(0)
    for _ in range(60):
        mutant = damaged_bytes("\n".join([*good, ""]).encode(), rng)
        path.write_bytes(mutant)
        intact = [line for line in good[:15] if line.encode() in mutant.split(b"\n")]
        with RunLog(tmp_path, 14, report=quiet):
            kept = path.read_text("utf-8").splitlines()
        assert set(intact) <= set(kept)
        assert all(line["step"] <= 14 for line in read_log(tmp_path))
