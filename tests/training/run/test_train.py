"""A whole training run: its report, refused arguments, and a teacher."""

import shutil

import pytest

from minimtp import backend
from minimtp.backend import numpy as np
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError
from minimtp.training.run.folder import load_run
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import quiet, recipe_of, stored


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
def test_the_report_warns_if_blas_may_use_its_own_threads(
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


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"vocabulary_size": 300}, {}, "vocabulary_size is 300, but the tokenizer has 257"),
        (
            {"context_length": 1024, "tokens": 40 * 1024, "batch_size": 40},
            {},
            "one batch of 40 x 1024 needs 40,960 tokens",
        ),
        ({}, {"threads": 0}, "threads must be a whole number from 1"),
        ({}, {"start": Start(start_from="missing")}, "there is no run folder missing"),
        ({}, {"start": Start(resume=True)}, "there is no run to resume"),
        ({}, {"stop_at_step": 0}, "stop_at_step"),
        ({}, {"start": Start(teacher="missing")}, "nothing is learned from the teacher"),
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
def test_a_run_that_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path, corpus, changes, options, words
):
    with pytest.raises(UserError, match=words):
        train(recipe_of(**changes), corpus, tmp_path / "run", report=quiet, **options)
    assert not (tmp_path / "run").exists()


def test_a_distilled_student_learns_from_its_teacher_and_loads_it_again_when_resumed(
    tmp_path, corpus
):
    train(recipe_of(steps=60), corpus, tmp_path / "teacher", threads=1, report=quiet)
    student, options = (
        recipe_of(seed=1, distill_weight=1.0),
        {"start": Start(teacher=tmp_path / "teacher"), "threads": 2, "report": quiet},
    )
    train(student, corpus, tmp_path / "whole", **options)
    train(student, corpus, tmp_path / "parts", stop_at_step=5, **options)
    train(student, corpus, tmp_path / "parts", start=Start(resume=True), report=quiet)
    assert stored(tmp_path / "parts") == stored(tmp_path / "whole")
    shutil.copytree(tmp_path / "teacher", tmp_path / "moved")
    train(student, corpus, tmp_path / "other", stop_at_step=5, **options)
    before = stored(tmp_path / "other")
    with pytest.raises(UserError, match="has followed a teacher with other weights"):
        start = Start(resume=True, teacher=tmp_path / "whole")
        train(student, corpus, tmp_path / "other", start=start, report=quiet)
    assert stored(tmp_path / "other") == before
    start = Start(resume=True, teacher=tmp_path / "moved")
    train(student, corpus, tmp_path / "other", start=start, report=quiet)
    assert stored(tmp_path / "other") == stored(tmp_path / "whole")

    def divergence(name: str) -> float:
        tokens = corpus.validation_windows(512, sequence_length=16)[:, :-1]
        with no_grad():
            logits = [
                model.logits(model.hidden(tokens)).data
                for model in (load_run(tmp_path / n).model for n in ("teacher", name))
            ]
        p, q = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in logits)
        return float((p * np.log(p / q)).sum(axis=-1).mean())

    train(recipe_of(seed=1), corpus, tmp_path / "alone", threads=2, report=quiet)
    assert divergence("whole") < divergence("alone")
