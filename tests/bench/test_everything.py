"""`minimtp bench --all`: every measurement once, in order, and after an interruption only what is
missing."""

import json
from unittest.mock import Mock

import pytest

from minimtp import files
from minimtp.backend import Device
from minimtp.bench import everything
from minimtp.cli import main

NAMES = [
    "bench-kernels.json",
    "bench-train.json",
    "compare-tiny.json",
    "bench-decode.json",
    "quality-tiny.json",
]


class Measured(list):
    devices: list[str]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """What was measured, in order: names, and the devices. Each measurement writes only that it was
    made."""
    monkeypatch.chdir(tmp_path)
    done, devices = Measured(), []
    done.devices = devices

    def writes(path, name, device="cpu"):
        done.append(name)
        devices.append(device)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(name))

    monkeypatch.setattr(everything, "describe_kernels", lambda device: (device, "of a test"))
    monkeypatch.setattr(
        everything.kernels,
        "measure_kernels",
        lambda *, out, device, **_: writes(out, "kernels", device),
    )
    monkeypatch.setattr(
        everything.train,
        "measure_training",
        lambda preset, *, out, device, **_: writes(out, "train", device),
    )
    monkeypatch.setattr(
        everything.compare,
        "run",
        lambda preset, out, *, device: writes(out / "compare.json", "compare", device),
    )
    monkeypatch.setattr(
        everything.decode, "measure_decoding",
        lambda run, *, small, sizes, device, out: writes(out / "bench-decode.json", "decode", device),
    )  # fmt: skip
    monkeypatch.setattr(
        everything.quality,
        "measure_quality",
        lambda bits, seeds, preset, out: writes(out / "quality.json", "quality"),
    )
    return done


def test_all_measurements_are_made_one_after_the_other_and_their_files_lie_side_by_side(
    measured, tmp_path, capsys
):
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


def test_a_file_that_breaks_off_while_it_is_copied_does_not_count_as_measured(
    measured, tmp_path, monkeypatch, capsys
):
    command = ["bench", "--all", "--preset", "tiny", "--out", "figures"]
    with monkeypatch.context() as patched:
        patched.setattr(files, "move_into_place", Mock(side_effect=OSError("no space left")))
        assert main(command) == 2
    assert "compare-tiny.json cannot be written (no space left)" in capsys.readouterr().err
    assert not list((tmp_path / "figures").glob("compare-tiny.json*"))
    assert main(command) == 0
    assert measured == ["kernels", "train", "compare", "compare", "decode", "quality"]


def test_a_gpu_is_asked_for_everything_that_is_a_question_of_speed(measured, monkeypatch):
    monkeypatch.setattr(everything, "choose_device", lambda name: Device(name, None, "of a test"))
    assert main(["bench", "--all", "--preset", "gpu", "--device", "cuda", "--out", "figures"]) == 0
    assert measured == ["kernels", "train", "compare", "decode"] and set(measured.devices) == {
        "cuda"
    }


def test_without_compiled_kernels_the_rest_is_measured_all_the_same(measured, monkeypatch, capsys):
    monkeypatch.setattr(
        everything, "describe_kernels", lambda device: ("plain", "Numba is missing")
    )
    assert main(["bench", "--all", "--preset", "tiny", "--out", "figures"]) == 0
    assert measured == ["train", "compare", "decode", "quality"]
    said = capsys.readouterr().out
    assert (
        "bench-kernels.json is left out, there are no compiled kernels to measure: Numba is missing"
        in said
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to measure, or --all"),
        (["--all", "--preset", "laptop"], "preset must be one of tiny, quick"),
        (["--all", "--preset", "gpu"], "preset gpu takes days on a CPU"),
        (["--all", "quality"], "not both: leave out the name"),
        (["--preset", "tiny", "quality"], "not both: put --preset behind the name"),
        (["--device", "cuda", "kernels"], "not both: put --device behind the name"),
        (["--out", "figures", "train"], "not both: put --out behind the name"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    measured, arguments, words, capsys, tmp_path
):
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert measured == [] and list(tmp_path.iterdir()) == []
