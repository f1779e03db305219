"""Lesson 11: which model it takes, what it prints, and that it never repeats finished work."""

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from lessons import course
from minimtp.compare.pretrained import run as comparison
from minimtp.formats import load

ROOT = Path(__file__).resolve().parents[2]
RESULT = json.loads((ROOT / "data" / "results" / "smollm2.json").read_text(encoding="utf-8"))
lesson = importlib.import_module("lessons.lesson11_real_model.__main__")


def run(*options):
    course.run(11, lesson.main, list(options))


def test_without_the_package_one_sentence_says_how_to_get_the_model(monkeypatch, tmp_path, capsys):
    missing = ("no_such_package", "0.1.2", "model.gguf")
    monkeypatch.setitem(load.PACKAGED, "smollm2", missing)
    with pytest.raises(SystemExit) as stopped:
        run("--out", str(tmp_path))
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("is not installed: pip install --no-deps no-such-package==0.1.2")


@pytest.mark.parametrize(
    ("options", "model", "folder", "words"),
    [
        ((), "smollm2", "standard/lesson11/smollm2", "half an hour"),
        (("--preset", "laptop"), "smollm2", "laptop/lesson11/smollm2", "an hour"),
        (("--model", "my/model.gguf"), "my/model.gguf", "standard/lesson11/model", "half an hour"),
    ],
)
def test_the_run_says_what_it_will_take_and_prints_what_the_text_shows(
    monkeypatch, tmp_path, capsys, options, model, folder, words
):
    def loaded(name, device, dequantize):
        assert (name, dequantize) == (model, True)
        return SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(num_layers=30)))

    def finished(job, out, report):
        assert out == tmp_path / folder
        return RESULT

    monkeypatch.setattr(lesson, "load", loaded)
    monkeypatch.setattr(lesson, "make_job", lambda *arguments: None)
    monkeypatch.setattr(lesson, "finish_comparison", finished)
    for name in ("show_answers", "show_files"):
        monkeypatch.setattr(lesson.report, name, lambda *arguments: None)
    run("--out", str(tmp_path), *options)
    printed = capsys.readouterr()
    text = (ROOT / "lessons" / "lesson11_real_model" / "README.md").read_text(encoding="utf-8")
    assert printed.out.strip() == re.search(r"^```text\n(.*?)\n```", text, re.M | re.S)[1]
    assert f"about {words} on two cores" in printed.err and "Ctrl-C" in printed.err


def test_a_preset_without_sizes_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--out", str(tmp_path), "--preset", "gpu")
    assert stopped.value.code == 2 and "tiny, quick, laptop" in capsys.readouterr().err


@pytest.mark.slow
def test_the_tiny_model_goes_all_the_way_and_a_second_run_repeats_nothing(
    monkeypatch, tmp_path, capsys
):
    options = ("--out", str(tmp_path), "--preset", "tiny", "--device", "cpu")
    run(*options)
    first = capsys.readouterr().out
    out = tmp_path / "tiny" / "lesson11" / "tiny"
    for folder in (out / "transformers", out / "mtp_qat_int4", out / "mtp_qat_int4.gguf"):
        loaded = load.load(folder)
        assert loaded.tokenizer.chat_template is not None
        assert loaded.model.config.vocabulary_size == 512
    monkeypatch.setattr(
        comparison, "_make_and_measure", lambda *a: pytest.fail("finished work was repeated")
    )
    run(*options)
    assert capsys.readouterr().out == first
