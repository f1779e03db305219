"""Bad input is refused with one sentence and exit code 2, and nothing is written."""

import io
import os
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from minimtp.cli import main
from minimtp.errors import MeasurementFailed
from minimtp.training.run import checkpoint
from tests.cli.helpers import SMALL, python, refused


def test_a_corpus_that_cannot_be_used_is_refused(capsys, monkeypatch):
    Path("empty.txt").write_bytes(b"")
    Path("binary").write_bytes(b"\x7fELF\0\0\0")
    Path("short.txt").write_bytes(b"too short")
    Path("folder").mkdir()
    for name, words in {
        "missing.txt": "there is no file or folder missing.txt",
        "empty.txt": "empty.txt is empty",
        "binary": "binary is not text",
        "short.txt": "short.txt is too short: one batch of 4 x 16",
        "folder": "folder holds no text files",
    }.items():
        assert words in refused(capsys, "train", *SMALL, "--corpus", name, "--out", "out")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "minimtp[corpora]" in refused(
        capsys, "train", *SMALL, "--corpus", "shakespeare", "--out", "out"
    )


@pytest.mark.parametrize(
    "command", ["generate", "evaluate", "quantize --out new", "train --out new --from"]
)
def test_a_run_folder_that_cannot_be_used_is_refused(capsys, run, command):
    command, file = command.split(), run / checkpoint.FILE_NAME
    content = file.read_bytes()
    assert "there is no run folder missing" in refused(capsys, *command, "missing")
    file.write_bytes(content[: len(content) // 2])
    assert "is damaged" in refused(capsys, *command, "run")
    file.write_bytes(content.replace(b'format_version\\": 2', b'format_version\\": 9'))
    assert "has checkpoint format 9" in refused(capsys, *command, "run")
    file.unlink()
    assert "run holds no checkpoint" in refused(capsys, *command, "run")
    shutil.rmtree(run)
    run.write_text("a file")
    assert "run is not a run folder" in refused(capsys, *command, "run")


def test_cuda_without_a_usable_gpu_is_refused_with_the_reason(capsys, monkeypatch):
    monkeypatch.setattr("minimtp.backend._usable_cupy", lambda: (None, "the driver is asleep"))
    sentence = refused(
        capsys, "train", *SMALL, "--corpus", "poem.txt", "--out", "out", "--device", "cuda"
    )
    assert "--device cuda is not possible here (the driver is asleep)" in sentence


def test_a_folder_that_cannot_be_written_is_refused(capsys):
    Path("file").write_text("in the way")
    assert "the folder file/run cannot be made" in refused(
        capsys, "train", *SMALL, "--corpus", "poem.txt", "--out", "file/run"
    ).replace("\\", "/")


def test_a_full_disk_is_refused_and_the_previous_run_is_unchanged(capsys, run, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for command in (["train", *SMALL, "--corpus", "poem.txt"], ["quantize", "run"]):
        sentence = refused(capsys, *command, "--out", "new")
        assert "cannot be written" in sentence and "No space left on device" in sentence
    assert checkpoint.read(run).step == 10


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows reports these errors with other messages"
)
@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("train --preset tiny --out new --corpus", "{}"),
        ("train --preset tiny --corpus poem.txt --out", "{}/run"),
        ("train --corpus poem.txt --out new --from", "{}/run"),
        ("train --resume --out", "{}/run"),
        ("train --preset tiny --out new --tokenizer", "{}/tokenizer.json"),
        ("train --out new --recipe", "{}/recipe.json"),
        ("generate", "{}/run"),
        ("evaluate", "{}/run"),
        ("evaluate run --corpus", "{}/text"),
        ("quantize --out new", "{}/run"),
        ("quantize run --out", "{}/run"),
    ],
)
def test_a_path_without_permission_or_too_long_is_refused(capsys, run, monkeypatch, command, path):
    stat, open_ = os.stat, io.open

    def locked(function):
        def attempt(file, *arguments, **options):
            if "locked" in str(file):
                raise PermissionError(13, "Permission denied", str(file))
            return function(file, *arguments, **options)

        return attempt

    assert "File name too long" in refused(capsys, *command.split(), path.format("x" * 300))
    monkeypatch.setattr("os.stat", locked(stat))
    monkeypatch.setattr("io.open", locked(open_))
    assert "Permission denied" in refused(capsys, *command.split(), path.format("locked"))


def test_an_error_of_the_system_is_reported_in_one_sentence(capsys, run, monkeypatch):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", "loss.png")

    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", full)
    assert main(["train", *SMALL, "--corpus", "poem.txt", "--out", "new"]) == 2
    assert capsys.readouterr().err.endswith(
        "\nminimtp: loss.png: No space left on device: free disk space, or choose another path\n"
    )
    assert checkpoint.read("new").step == 10


def test_running_out_of_memory_names_only_options_that_the_command_has(capsys, run, monkeypatch):
    full = Mock(side_effect=MemoryError)
    for place in ("evaluate.evaluate", "quantize.quantize", "run.train.train"):
        monkeypatch.setattr(f"minimtp.training.{place}", full)
    advice = {
        ("evaluate", "run"): "lower --context or --threads, or use",
        ("quantize", "run", "--out", "new"): "lower --context, or use",
        ("train", *SMALL, "--corpus", "poem.txt", "--out", "new"): "lower --batch-size or "
        "--context-length or --threads, or use",
    }
    for command, options in advice.items():
        assert f"out of memory: {options} a smaller model" in refused(capsys, *command)


def test_a_measurement_that_cannot_be_trusted_exits_with_1_and_the_reason(capsys, monkeypatch):
    monkeypatch.setattr(
        "minimtp.bench.training.speed.measure_training",
        Mock(side_effect=MeasurementFailed("the losses differ")),
    )
    assert main(["bench", "train"]) == 1
    assert capsys.readouterr().err == "minimtp: the losses differ\n"


def test_quantize_and_evaluate_refuse_contradictory_or_unknown_options(capsys, run):
    assert "use one of them" in refused(
        capsys, "quantize", "run", "--bits", "4", "--grid", "q4_0", "--out", "new"
    )
    assert "4, 8" in refused(capsys, "quantize", "run", "--bits", "3", "--out", "new")
    assert "unknown grid 'int3'" in refused(
        capsys, "quantize", "run", "--grid", "int3", "--out", "new"
    )
    assert "method must be one of rtn, hqq, importance, awq, gptq, not 'gpqt'" in refused(
        capsys, "quantize", "run", "--method", "gpqt", "--out", "new"
    )
    assert "does not look at any text" in refused(
        capsys, "quantize", "run", "--calibration", "poem.txt", "--out", "new"
    )
    assert "too short to calibrate with" in refused(
        capsys, "quantize", "run", "--method", "gptq", "--calibration", "short.txt", "--out", "new"
    )
    assert "already holds a checkpoint" in refused(capsys, "quantize", "run", "--out", "run")
    assert "arguments are required: --out" in refused(capsys, "quantize", "run")
    assert "arguments are required: MODEL" in refused(capsys, "evaluate")
    assert "missing.txt" in refused(capsys, "evaluate", "run", "--corpus", "missing.txt")
    assert "threads must be a whole number from 1 to 1024, not -1" in refused(
        capsys, "evaluate", "run", "--threads", "-1"
    )
    for tokens in ("0", "-5"):
        assert f"tokens must be a whole number of at least 1, not {tokens}" in refused(
            capsys, "evaluate", "run", "--tokens", tokens
        )
    assert "a seed is a whole number" in refused(
        capsys, "bench", "decode", "run", "--seed", "-1", "--texts", "random"
    )
    assert "unknown command 'trian': did you mean train?" in refused(capsys, "trian")
    assert "unknown option '--verison': did you mean" in refused(capsys, "--verison")


@pytest.mark.parametrize(
    "arguments", [["generate", "missing"], ["train", "--tokens", "-5"], ["evaluate"]], ids=str
)
def test_a_process_with_bad_input_exits_with_2_and_one_line(arguments):
    result = python("from minimtp.cli import main; sys.exit(main(sys.argv[1:]))", *arguments)
    assert result.returncode == 2
    assert re.fullmatch(r"minimtp: [^\n]+\n", result.stderr)
    assert result.stdout == ""
