"""Every command works, or is refused with one sentence, in unusual environments."""

import os
import re
from functools import cache
from pathlib import Path

import pytest

from minimtp.cli import main
from tests.cli.environments.cases import COMMANDS, ENVIRONMENTS, LONG_COMMANDS, TRAIN, outcome
from tests.cli.helpers import TEXT

ALL = COMMANDS | LONG_COMMANDS
EVERYWHERE = ("doctor", "train", "generate", "trace")  # the others share most of their code
CASES = [
    (environment, command)
    for environment, described in ENVIRONMENTS.items()
    for command in (ALL if described.every_command else EVERYWHERE)
]
FEW = [  # the cases that every run of the tests tries
    ("numba raises OSError", "generate"),
    ("numba does not compile", "generate"),
    ("the extras end the process", "doctor"),
    ("an unknown backend of matplotlib", "train"),
    ("dollars in the folder's name", "train"),
    ("undecodable bytes, ASCII", "trace"),
    ("all streams are closed", "evaluate"),
    ("standard output is full", "generate"),
    ("standard error is full", "resume"),
    ("an unknown user without a home", "generate"),
    ("one column", "help of train"),
]
PICTURES = ("loss.png", "compare.png", "bench-decode.png", "quality.png")


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A folder with a finished run, a run that stopped half-way, and texts."""
    folder = tmp_path_factory.mktemp("environments")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("poem.txt").write_bytes(TEXT)
        Path("prompts.txt").write_text("violets\nsugar\n")
        Path("damaged.rc").write_bytes(b"backend: \xff\nfigure.dpi: [}\nfont.size\n")
        options = [*TRAIN, "--draft-depth", "3", "--device", "cpu"]
        assert main([*options, "--out", "run"]) == 0
        assert main([*options, "--out", "half", "--stop-at-step", "4"]) == 0
        Path("run/loss.png").unlink(missing_ok=True)
        Path("half/loss.png").unlink(missing_ok=True)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="session")
def normal(source, tmp_path_factory):
    """normal(command) returns the outcome of a command in a normal environment."""

    @cache
    def run(command):
        place = tmp_path_factory.mktemp("normal")
        return outcome(ENVIRONMENTS["normal"], ALL[command], source, place)

    return run


@pytest.mark.parametrize(("environment", "command"), FEW, ids=lambda name: name)
def test_a_common_fault_of_an_environment_does_not_stop_a_command(
    environment, command, source, normal, tmp_path
):
    check(environment, command, source, normal, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "command"), CASES, ids=lambda name: name)
def test_a_command_gives_its_normal_result_or_one_sentence(
    environment, command, source, normal, tmp_path
):
    check(environment, command, source, normal, tmp_path)


def check(name, command, source, normal, tmp_path):
    environment = ENVIRONMENTS[name]
    if environment.stranger and os.geteuid() != 0:
        pytest.skip("only root may start a process as another user")
    expected = normal(command)
    found = outcome(environment, ALL[command], source, tmp_path)
    said = f"{found.out}\n{found.err}"
    assert "Traceback" not in said and "Exception ignored" not in said, said
    assert len(found.err) < 20_000, said
    if found.code == 2 and expected.code != 2:
        assert environment.may_fail, said
    else:
        assert found.code == expected.code, said
    if found.code == 2 and found.err:
        sentence = found.err.splitlines()[-1]
        assert re.fullmatch(r"minimtp: .{1,300}", sentence), said
    if found.code != expected.code or not environment.same:
        return
    if not environment.silent and command not in ("doctor", *LONG_COMMANDS):
        if not (command.startswith("help") and "COLUMNS" in environment.variables):
            assert in_ascii(found.out) == in_ascii(expected.out), said
    assert without_pictures(found.files) == without_pictures(expected.files)


def in_ascii(text):
    """Return the text as a terminal shows it that knows only ASCII."""
    return text.encode("ascii", "replace")


def without_pictures(files):
    return {name: digest for name, digest in files.items() if Path(name).name not in PICTURES}
