"""`minimtp bench --all` runs every measurement once, in order, and after an interruption only the
missing ones.
"""

import json
from unittest.mock import Mock

import pytest

from minimtp.backend import Device
from minimtp.cli import main
from minimtp.cli.bench import everything
from minimtp.files import writing
from tests.cli.helpers import refused

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
    """Record the names and devices of the measurements in order.

    Each measurement only writes its own name to its file.
    """
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
        everything.training,
        "measure_training",
        lambda preset, *, out, device, **_: writes(out, "train", device),
    )
    monkeypatch.setattr(
        everything.comparison,
        "compare",
        lambda preset, out, *, device: writes(out / "compare.json", "compare", device),
    )
    monkeypatch.setattr(
        everything.decode,
        "measure_decoding",
        lambda run, *, device, out, **_: writes(out / "bench-decode.json", "decode", device),
    )
    monkeypatch.setattr(
        everything.quality,
        "measure_quality",
        lambda bits, seeds, preset, out: writes(out / "quality.json", "quality"),
    )
    return done


def test_all_measurements_run_in_order_and_write_their_files_into_one_folder(
    measured, tmp_path, capsys
):
    assert main(["bench", "--all", "--preset", "tiny", "--out", "figures"]) == 0
    assert measured == ["kernels", "train", "compare", "decode", "quality"]
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.json")) == sorted(NAMES)
    assert "all results are in figures" in capsys.readouterr().out


def test_existing_files_are_kept_and_only_missing_ones_are_measured(measured, tmp_path, capsys):
    command = ["bench", "--all", "--preset", "tiny", "--out", "figures"]
    assert main(command) == 0
    (tmp_path / "figures" / "bench-train.json").unlink()
    measured.clear()
    assert main(command) == 0
    assert measured == ["train"]
    assert capsys.readouterr().out.count(": delete it to measure again") == len(NAMES) - 1


def test_a_copy_that_fails_halfway_does_not_count_as_measured(
    measured, tmp_path, monkeypatch, capsys
):
    command = ["bench", "--all", "--preset", "tiny", "--out", "figures"]
    with monkeypatch.context() as patched:
        patched.setattr(writing, "move_into_place", Mock(side_effect=OSError("no space left")))
        assert main(command) == 2
    assert "compare-tiny.json cannot be written (no space left)" in capsys.readouterr().err
    assert not list((tmp_path / "figures").glob("compare-tiny.json*"))
    assert main(command) == 0
    assert measured == ["kernels", "train", "compare", "compare", "decode", "quality"]


def test_with_a_gpu_every_measurement_of_speed_runs_on_it(measured, monkeypatch):
    monkeypatch.setattr(everything, "choose_device", lambda name: Device(name, None, "of a test"))
    assert main(["bench", "--all", "--preset", "gpu", "--device", "cuda", "--out", "figures"]) == 0
    assert measured == ["kernels", "train", "compare", "decode"] and set(measured.devices) == {
        "cuda"
    }


def test_without_compiled_kernels_everything_else_is_still_measured(measured, monkeypatch, capsys):
    monkeypatch.setattr(
        everything, "describe_kernels", lambda device: ("plain", "Numba is missing")
    )
    assert main(["bench", "--all", "--preset", "tiny", "--out", "figures"]) == 0
    assert measured == ["train", "compare", "decode", "quality"]
    said = capsys.readouterr().out
    assert (
        "omitting bench-kernels.json: there are no compiled kernels to measure (Numba is missing)"
        in said
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a measurement, or use --all"),
        (["--all", "--preset", "laptop"], "preset must be one of tiny, quick"),
        (["--all", "--preset", "gpu"], "preset gpu takes days on a CPU"),
        (["--all", "quality"], "not both: omit the name"),
        (["--preset", "tiny", "quality"], "not both: write --preset after the name"),
        (["--device", "cuda", "kernels"], "not both: write --device after the name"),
        (["--out", "figures", "train"], "not both: write --out after the name"),
    ],
    ids=str,
)
def test_options_that_cannot_be_measured_are_refused_before_a_file_is_written(
    measured, arguments, words, capsys
):
    assert words in refused(capsys, "bench", *arguments)
    assert measured == []
