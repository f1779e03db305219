"""Ctrl-C at any moment, from the first import on, ends a command with exit code 130 and without a
traceback, and nothing is half-written."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import minimtp
from minimtp.cli.process import STOPS
from minimtp.training.run import checkpoint
from tests.cli.helpers import SMALL

ROOT = Path(minimtp.__file__).parents[1]
# Runs the command and sends a signal, such as Ctrl-C, at the import with this number, counted from
# the first line of minimtp. An audit hook sees every import, also those inside of compiled
# libraries. Says at the end if there were fewer imports.
PRESSED = """
import atexit, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
moment, number, count = int(sys.argv.pop(1)), int(sys.argv.pop(1)), 0
def hook(event, arguments):
    global count
    if event == "import" and not sys.is_finalizing():
        count += 1
        if count == moment:
            signal.raise_signal(number)
def say_whether_pressed():
    if count < moment:
        print("never pressed", file=sys.stderr)
atexit.register(say_whether_pressed)
runpy.run_module  # is loaded before the counting begins
import minimtp
sys.addaudithook(hook)
runpy.run_module("minimtp", run_name="__main__", alter_sys=True)
"""
# Sends one signal inside of a destructor, where Python drops the error that it raises.
IN_A_DESTRUCTOR = """
import signal, sys, time
signal.signal(int(sys.argv[1]), signal.SIG_DFL)  # nohup and shells let a process ignore some
if "ignore" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a background job
from minimtp.cli.process import Interrupts
class Dropped:
    def __del__(self):
        signal.raise_signal(int(sys.argv[1]))
        time.sleep(0)
interrupts = Interrupts()
interrupts.watch()
try:
    thing = Dropped()
    del thing
    for _ in range(1000):
        time.sleep(0.01)
    print("lost")
except KeyboardInterrupt:
    print("stopped", interrupts.requested)
"""
COMMANDS = {
    "train": ["train", *SMALL, "--corpus", "poem.txt", "--out", "new"],
    "generate": "generate run --prompt roses --max-new-tokens 4 --temperature 1".split(),
    "evaluate": "evaluate run --tokens 64".split(),
    "export": "export run --out model.gguf".split(),
    "doctor": ["doctor"],
}
FEW = {"train": (1, 100, 300), "generate": (2, 200)}
STEP = 8  # imports between two moments, which the commands try in turn


def press(moment: int, command: list[str], number: int) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PRESSED, str(moment), str(int(number)), *command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "MINIMTP_KERNELS": "plain"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )


def check(name: str, moment: int, number: int = signal.SIGINT) -> bool:
    """Send a signal, by default Ctrl-C, at a moment of the command and check what is observable.
    Return whether there was such a moment.
    """
    before = set(Path().rglob("*"))
    done = press(moment, COMMANDS[name], number)
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    said = done.stderr.rstrip().splitlines()
    was_pressed = said[-1:] != ["never pressed"]
    # 0: the command had finished before
    assert done.returncode in ((0, 130) if was_pressed else (0,)), done.stderr
    if done.returncode == 130:
        assert said[-1].startswith("minimtp: stopped"), done.stderr
    new = set(Path().rglob("*")) - before
    assert not [path for path in new if path.suffix == ".partial"]
    for path in new:
        if path.suffix == ".json" and path.is_file():
            json.loads(path.read_text())
        if path.name == checkpoint.FILE_NAME:
            checkpoint.read(path.parent)
    return was_pressed


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("name", FEW)
def test_ctrl_c_during_the_start_ends_the_command_without_a_traceback(name):
    for moment in FEW[name]:
        assert check(name, moment)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("number", STOPS[1:], ids=lambda number: number.name)
def test_what_kill_and_a_closed_terminal_send_stops_a_command_as_ctrl_c_does(number):
    for name, moment in (("train", 300), ("generate", 200), ("evaluate", 250)):
        assert check(name, moment, number)


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("others", [(), ("ignore",)], ids=["terminal", "background"])
def test_a_signal_in_a_destructor_is_neither_lost_nor_shown(number, others):
    if others and number == signal.SIGINT:
        pytest.skip("it is ignored")
    done = subprocess.run(
        [sys.executable, "-c", IN_A_DESTRUCTOR, str(int(number)), *others],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("stopped True\n", "")


@pytest.mark.slow
@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_at_any_import_ends_the_command_without_a_traceback(name, tmp_path):
    first = 1 + STEP * list(COMMANDS).index(name)
    moments = range(first, 10_000, STEP * len(COMMANDS))  # the commands begin with the same imports
    for moment in moments:
        folder = tmp_path / str(moment)
        folder.mkdir()
        for source in ("poem.txt", "run"):
            os.symlink(tmp_path / source, folder / source)
        os.chdir(folder)
        if not check(name, moment):
            break
    assert moment > 300
