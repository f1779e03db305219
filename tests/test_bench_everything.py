"""`minimtp bench --all`: every measurement once, in order, and after an interruption only what is missing."""

import json

import pytest

from minimtp.bench import everything
from minimtp.cli import main

NAMES = ["bench-kernels.json", "bench-train.json", "compare-tiny.json", "bench-decode.json", "quality-tiny.json"]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The names of what was measured, in order; each measurement writes only that it was made."""
    monkeypatch.chdir(tmp_path)
    done = []

    def writes(path, name):
        done.append(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(name))

    monkeypatch.setattr(everything.kernels, "kernel_speeds", lambda *, out, **_: writes(out, "kernels"))
    monkeypatch.setattr(everything.train, "train", lambda preset, *, out, **_: writes(out, "train"))
    monkeypatch.setattr(everything.compare, "run", lambda preset, out: writes(out / "compare.json", "compare"))
    monkeypatch.setattr(
        everything.decode, "measure", lambda run, *, small, sizes, out: writes(out / "bench-decode.json", "decode")
    )
    monkeypatch.setattr(
        everything.quality, "run", lambda bits, seeds, preset, out: writes(out / "quality.json", "quality")
    )
    return done


def test_all_measurements_are_made_one_after_the_other_and_their_files_lie_side_by_side(measured, tmp_path, capsys):
    assert main(["bench", "--all", "--preset", "tiny", "--out", "figures"]) == 0
    assert measured == ["kernels", "train", "compare", "decode", "quality"]
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.json")) == sorted(NAMES)
    assert "all of them are in figures" in capsys.readouterr().out


def test_what_is_measured_is_kept_and_what_is_missing_is_measured(measured, tmp_path, capsys):
    command = ["bench", "--all", "--preset", "tiny", "--out", "figures"]
    assert main(command) == 0
    (tmp_path / "figures" / "bench-train.json").unlink()
    measured.clear()
    assert main(command) == 0
    assert measured == ["train"]
    assert capsys.readouterr().out.count("stands in figures already") == len(NAMES) - 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to measure, or --all"),
        (["--all", "--preset", "laptop"], "preset must be one of tiny, quick"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(measured, arguments, words, capsys, tmp_path):
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert measured == [] and list(tmp_path.iterdir()) == []
