"""Links, named pipes, devices, folders and files of the user's at every output of every command:
each costs one sentence or one line, and all of them stay as they are.
"""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from minimtp.bench.decode.plot import draw as draw_decoding
from minimtp.bench.kernels.plot import draw as draw_kernels
from minimtp.bench.quality.report import draw as draw_quality
from minimtp.cli import main
from minimtp.compare import run as comparison
from minimtp.compare.plot import draw_comparison
from minimtp.compare.run import compare
from minimtp.training.run.plot import draw_losses
from tests.cli.helpers import SMALL, TEXT
from tests.files.obstacles import OBSTACLES, contents, plant

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="links, pipes and signals of POSIX"),
]
RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
NOT_FOLDERS = [name for name in OBSTACLES if "folder" not in name]
TRAIN = ["train", *SMALL, "--corpus", "poem.txt", "--out", "new"]
SELF = ["train", "--from", "run", *TRAIN[-4:], "--self-generated", "64", "--tokens", "640"]
QUANTIZE = ["quantize", "run", "--out", "new"]
COMPARE = ["compare", "--preset", "tiny", "--threads", "1", "--out", "new"]
DECODE = ["bench", "decode", "run", "--texts", "random", "--out", "new"]
ROUNDS = ["bench", "rounds", "run", "--texts", "random", "--out", "new"]
QUALITY = ["bench", "quality", "--preset", "tiny", "--out", "new"]
LOCK = "new/.minimtp-lock"
REFUSED = [  # (command, output): the command ends with one sentence
    (TRAIN, "new/checkpoint.safetensors"), (TRAIN, "new/recipe.json"), (TRAIN, "new/log.jsonl"),
    (TRAIN, LOCK), (SELF, "new/self-generated"),
    (QUANTIZE, "new/checkpoint.safetensors"), (QUANTIZE, "new/recipe.json"), (QUANTIZE, LOCK),
    (["export", "run", "--out", "new/model.gguf"], "new/model.gguf"),
    (["export", "run", "--out", "new/folder"], "new/folder"),
    (["generate", "run", "--trace", "new/page.html"], "new/page.html"),
    (COMPARE, "new/compare.json"), (COMPARE, LOCK),
    (["bench", "kernels", "--out", "new/result.json"], "new/result.json"),
    (["bench", "train", "--out", "new/result.json"], "new/result.json"),
    (DECODE, "new/bench-decode.json"), (ROUNDS, "new/bench-rounds.json"),
    (QUALITY, "new/quality.json"), (QUALITY, LOCK), (["bench", "--all", "--out", "new"], LOCK),
    (["plan", "--out", "new"], "new/plan.json"),
]  # fmt: skip
FOLDERS = [  # (command, output): the output is a folder
    (command, "new")
    for command in (
        TRAIN, SELF, QUANTIZE, COMPARE, DECODE, ROUNDS, QUALITY, ["bench", "--all", "--out", "new"],
        ["plan", "--out", "new"], ["export", "run", "--out", "new/model.gguf"],
        ["export", "run", "--out", "new/folder"],
        ["generate", "run", "--trace", "new/page.html"],
        ["bench", "train", "--out", "new/result.json"],
        ["bench", "kernels", "--out", "new/result.json"],
    )
] + [(COMPARE, "new/stem"), (COMPARE, "new/standard")]  # fmt: skip
REFUSALS = [
    pytest.param(command, output, obstacle, id=f"{' '.join(command[:2])} {output}, {obstacle}")
    for command, output in REFUSED
    for obstacle in OBSTACLES
    # An empty folder is replaced by a folder.
    if obstacle != "a folder" or output not in ("new/self-generated", "new/folder")
]
FOLDER_IDS = [" ".join(command[:2]) + " " + output for command, output in FOLDERS]


@pytest.fixture(scope="module", autouse=True)
def array_code_only():
    """Nothing is compiled, which would take longer than these tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("minimtp.kernels._choice", "plain")
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a text, a run, and a finished comparison."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "poem.txt").write_bytes(TEXT)
    corpus = str(folder / "poem.txt")
    command = ["train", *SMALL, "--corpus", corpus, "--heads", "parallel", "--draft-depth", "2"]
    assert main([*command, "--out", str(folder / "run")]) == 0
    (folder / "run" / "loss.png").unlink(missing_ok=True)
    compare("tiny", folder / "compared", threads=1, report=lambda line: None)
    return folder


@pytest.fixture(autouse=True)
def place(request, models, tmp_path, monkeypatch):
    """The current folder has a text and a run. A command that hangs fails."""
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)
    monkeypatch.setattr("minimtp.plots._reported", set())
    monkeypatch.chdir(tmp_path)
    shutil.copy(models / "poem.txt", "poem.txt")
    shutil.copytree(models / "run", "run")

    def hangs(number, frame):
        pytest.fail("the command hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def sentence_of(command: list[str], capsys) -> str:
    """Run a command that must be refused with one sentence."""
    code = main(command)
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("minimtp: ") and "compiling kernels" not in line
    ]
    assert code == 2 and len(lines) == 1, (code, lines)
    assert len(lines[0]) <= 309 and lines[0].isprintable()
    assert "disk space" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(("command", "output", "obstacle"), REFUSALS)
def test_an_obstacle_at_an_output_is_one_sentence_and_stays(command, output, obstacle, capsys):
    plant(obstacle, Path(output))
    before = contents(Path())
    assert "new" in sentence_of(command, capsys)
    assert contents(Path()) == before


@pytest.mark.parametrize("obstacle", NOT_FOLDERS)
@pytest.mark.parametrize(("command", "output"), FOLDERS, ids=FOLDER_IDS)
def test_an_obstacle_in_place_of_an_output_folder_is_one_sentence_and_stays(
    command, output, obstacle, capsys
):
    plant(obstacle, Path(output))
    before = contents(Path())
    assert Path(output).name in sentence_of(command, capsys)
    after = contents(Path())
    assert {name: after.get(name) for name in before} == before


def plots(models: Path):
    kernels = json.loads((RESULTS / "bench-kernels.json").read_text())
    decoding = json.loads((RESULTS / "bench-decode.json").read_text())
    quality = json.loads((RESULTS / "quality-quick.json").read_text())["rows"]
    compared = json.loads((models / "compared" / "compare.json").read_text())
    return {
        "result.png": lambda: draw_kernels(kernels, Path("new/result.png")),
        "bench-decode.png": lambda: draw_decoding(decoding, Path("new/bench-decode.png")),
        "quality.png": lambda: draw_quality(quality, Path("new/quality.png")),
        "compare.png": lambda: draw_comparison(compared, Path("new")),
        "loss.png": lambda: draw_losses(Path("new")),
    }


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize(
    "name", ["result.png", "bench-decode.png", "quality.png", "compare.png", "loss.png"]
)
def test_an_obstacle_at_a_plot_costs_one_line_and_stays(models, name, obstacle, capsys):
    plant(obstacle, Path("new", name))
    if name == "loss.png":
        shutil.copy("run/log.jsonl", "new/log.jsonl")
    before = contents(Path())
    assert plots(models)[name]() is None
    said = capsys.readouterr().err
    assert re.fullmatch(rf"minimtp: there is no plot new/{name}: [^\n]+\n", said)
    assert contents(Path()) == before


@pytest.mark.parametrize("name", ["result.png", "compare.png", "loss.png"])
def test_a_plot_of_minimtp_is_drawn_again(models, name):
    Path("new").mkdir()
    shutil.copy("run/log.jsonl", "new/log.jsonl")
    for _ in range(2):
        assert plots(models)[name]() == Path("new", name)


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("name", ["log.jsonl", "recipe.json"])
def test_an_obstacle_at_the_log_or_the_recipe_of_a_resumed_run_is_kept(obstacle, name, capsys):
    assert main([*TRAIN, "--stop-at-step", "5"]) == 0
    Path("new", name).unlink()
    plant(obstacle, Path("new", name))
    kept = [path for path in Path("new").iterdir() if name in path.name]
    before = {path: contents(Path("new"))[path.name] for path in kept}
    capsys.readouterr()
    resume = [*TRAIN, "--resume"]
    if "file of the user" in obstacle:
        assert main(resume) == 0
        assert f"it was renamed to {name}.1" in capsys.readouterr().err
        before[Path("new", f"{name}.1")] = before.pop(Path("new", name))
    else:
        assert name in sentence_of(resume, capsys)
    after = contents(Path("new"))
    assert {path: after.get(path.name) for path in before} == before


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_an_obstacle_at_the_stored_measurements_of_compare_is_kept(
    models, obstacle, capsys, monkeypatch
):
    shutil.copytree(models / "compared", "new")
    Path("new/compare.json").unlink()
    Path("new/compare.png").unlink(missing_ok=True)
    plant(obstacle, Path("new/measured.json"))
    before = contents(Path("new"))
    if "file of the user" in obstacle:
        assert main(COMPARE) == 0
        before["measured.json.1"] = before.pop("measured.json")
    else:
        sentence_of(COMPARE, capsys)
    after = contents(Path("new"))
    assert {name: after.get(name) for name in before} == before
    assert comparison.FILE_NAME in after or "file of the user" not in obstacle


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (["export", "run", "--out", "run/checkpoint.safetensors"], "run/checkpoint.safetensors"),
        (["export", "run", "--out", "run/recipe.json"], "run/recipe.json"),
        (["export", "run", "--out", "poem.txt"], "poem.txt"),
        (["generate", "run", "--trace", "run/log.jsonl"], "run/log.jsonl"),
        (["bench", "train", "--out", "run/recipe.json"], "run/recipe.json"),
        (["bench", "kernels", "--out", "run/log.jsonl"], "run/log.jsonl"),
        (["train", *SMALL, "--out", "poem.txt"], "poem.txt"),
        (["quantize", "run", "--out", "poem.txt"], "poem.txt"),
        (["compare", "--preset", "tiny", "--out", "run/recipe.json"], "recipe.json"),
        (["plan", "--out", "poem.txt"], "poem.txt"),
        (["bench", "decode", "run", "--out", "poem.txt"], "poem.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_command_writes_over_a_file_of_another_kind(command, output, capsys):
    before = contents(Path())
    assert output in sentence_of(command, capsys)
    assert contents(Path()) == before


def test_exporting_a_gguf_file_onto_itself_is_refused(capsys):
    assert main(["export", "run", "--out", "model.gguf"]) == 0
    before = contents(Path())
    assert "is the model itself" in sentence_of(
        ["export", "model.gguf", "--out", "./model.gguf"], capsys
    )
    assert contents(Path()) == before
