"""Every command that loads a model refuses weights that are NaN or infinite, in one sentence."""

import json
import struct
import subprocess
import sys

import pytest

from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.formats.gguf.container import open_gguf
from minimtp.training.run import checkpoint

BAD = {"NaN": float("nan"), "infinity": float("-inf")}
HUGE = {"huge": 3e38}  # finite, but a sum of products with a row of it is not
COMMANDS = {  # MODEL is the bad model, GOOD a good one
    "evaluate": ["evaluate", "MODEL", "--json"],
    "generate": ["generate", "MODEL"],
    "draft": ["generate", "GOOD", "--draft", "model:MODEL"],
    "export": ["export", "MODEL", "--out", "OUT.gguf"],
    "quantize": ["quantize", "MODEL", "--out", "OUT"],
    "bench": ["bench", "decode", "MODEL"],
    "selfgen": ["selfgen", "MODEL", "--mix", "prose=1", "--out", "OUT"],
    "train from it": ["train", "--from", "MODEL", "--out", "OUT"],
    "learn from it": [
        "train", "--from", "GOOD", "--teacher", "MODEL", "--distill-weight", "0.5", "--out", "OUT",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a good run, and for each bad number a run and a GGUF file that hold it."""
    place = tmp_path_factory.mktemp("bad")
    (place / "poem.txt").write_text("roses are red, violets are blue, " * 60)
    small = ["--preset", "tiny", "--tokens", "512", "--evaluation-tokens", "0"]
    options = ["--corpus", str(place / "poem.txt"), "--out", str(place / "run")]
    assert main(["train", *small, *options]) == 0
    assert main(["export", str(place / "run"), "--out", str(place / "run.gguf")]) == 0
    for name, number in (BAD | HUGE).items():
        stored = checkpoint.read(place / "run")
        stored.parameters["blocks.0.feed_forward.down.weight"] = _with(
            stored.parameters["blocks.0.feed_forward.down.weight"], number
        )
        checkpoint.write(place / name, stored)
        data = bytearray((place / "run.gguf").read_bytes())
        tensor = open_gguf(place / "run.gguf").tensors["blk.0.ffn_down.weight"]
        data[tensor.start + 40 : tensor.start + 44] = struct.pack("<f", number)
        (place / f"{name}.gguf").write_bytes(data)
    return place


def _with(array, number):
    array = np.array(array)
    array[3 if number in HUGE.values() else (3, 5)] = number
    return array


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("suffix", ["", ".gguf"], ids=["run", "gguf"])
@pytest.mark.parametrize("number", BAD)
def test_a_command_refuses_weights_that_are_not_finite(place, capsys, command, suffix, number):
    model, out = str(place / f"{number}{suffix}"), place / "out"
    if suffix and command.endswith("from it"):
        pytest.skip("training starts from run folders")
    places = {"MODEL": model, "GOOD": str(place / "run"), "OUT": str(out)}
    arguments = COMMANDS[command]
    for name, where in places.items():
        arguments = [argument.replace(name, where) for argument in arguments]
    assert main(arguments) == 2
    said = capsys.readouterr()
    message = said.err.splitlines()[-1]
    assert model in message and "NaN or infinite" in message and len(message) <= 300
    assert "Traceback" not in said.err and not out.exists()
    assert not (place / "out.gguf").exists()


def test_what_evaluate_writes_is_json_that_every_program_reads(place, capsys):
    arguments = ["evaluate", str(place / "run"), "--json", "--tokens", "64"]
    assert main([*arguments, "--corpus", str(place / "poem.txt")]) == 0
    json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("kernels", ["auto", "plain"])
@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_a_model_that_overflows_gets_one_sentence_and_no_warnings_of_numpy(place, command, kernels):
    arguments = [command, str(place / "huge"), "--kernels", kernels]
    done = subprocess.run(
        [sys.executable, "-m", "minimtp", *arguments], capture_output=True, text=True, timeout=120
    )
    lines = [line for line in done.stderr.splitlines() if "compiling kernels" not in line]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith("minimtp: "), done.stderr
