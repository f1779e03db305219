"""Several processes train like one. If one of them ends, at most the last step is lost."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.errors import UserError
from minimtp.training.run import checkpoint, distributed, mpirun
from minimtp.training.run.interrupt import Interrupted
from minimtp.training.run.log import read_log

MPIRUN = shutil.which("mpirun", path=sysconfig.get_path("scripts")) or shutil.which("mpirun")
needs_mpi = pytest.mark.skipif(
    MPIRUN is None or importlib.util.find_spec("mpi4py") is None,
    reason="mpirun or mpi4py is not installed (pip install mpich mpi4py)",
)
SIZES = [
    "--preset",
    "tiny",
    "--tokens",
    str(30 * 4 * 32),
    "--evaluation-tokens",
    "2048",
    "--heads",
    "token_conditioned",
]


def command(out, *options, processes=2):
    start = [MPIRUN, "-n", str(processes)] if processes > 1 else []
    return [
        *start,
        sys.executable,
        "-m",
        "minimtp",
        "train",
        *SIZES,
        "--draft-depth",
        "2",
        "--out",
        str(out),
        *options,
    ]


def environment(**variables):
    root = str(Path(minimtp.__file__).parents[1])
    return os.environ | {"PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""} | variables


def run(out, *options, processes=2, **variables):
    return subprocess.run(
        command(out, *options, processes=processes),
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )


def losses(folder):
    return [line["losses"] for line in read_log(folder) if "losses" in line]


@needs_mpi
def test_two_processes_give_the_bits_of_one_process_with_two_threads(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    result = run(two, "--threads", "1")
    assert result.returncode == 0, result.stderr
    assert run(one, "--threads", "2", processes=1).returncode == 0
    assert losses(two) == losses(one) and len(losses(two)) == 30
    ours, theirs = checkpoint.read(two), checkpoint.read(one)
    for name, array in {**theirs.parameters, **theirs.optimizer}.items():
        assert np.array_equal({**ours.parameters, **ours.optimizer}[name], array)
    assert (
        "processes 2, each with its rows" in result.stderr
        and result.stdout.count("try: minimtp") == 1
    )
    again = run(two, "--resume")
    assert again.returncode == 0 and "is finished" in again.stderr


@needs_mpi
def test_a_process_that_fails_ends_the_run_with_its_reason_and_a_checkpoint(tmp_path):
    out = tmp_path / "run"
    code = (
        "import sys; from minimtp.training import trainer\n"
        "from minimtp.training.run.mpirun import join\n"
        "real = trainer.accumulate_gradients\n"
        "def failing(model, tokens, *others, **named):\n"
        "    failing.calls += 1\n"
        "    if join().rank == 1 and failing.calls == 8: raise KeyError('no room')\n"
        "    return real(model, tokens, *others, **named)\n"
        "failing.calls, trainer.accumulate_gradients = 0, failing\n"
        "from minimtp.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = command(out, "--threads", "1")
    at = arguments.index("-m")
    arguments[at : at + 2] = ["-c", code]
    result = subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert result.returncode != 0
    assert (
        "process 2 of 2 failed (KeyError: 'no room')" in result.stderr
        and "step 7 is saved; resume" in result.stderr
    )
    assert checkpoint.read(out).step == 7


@needs_mpi
def test_a_failure_in_the_second_run_of_a_program_ends_all_processes(tmp_path):
    code = (
        "import sys; from minimtp.cli import main; from minimtp.training.run import mpirun, train\n"
        "assert main(sys.argv[1:] + ['--out', 'first']) == 0\n"
        "def failing(*arguments, **options): raise KeyError('no room')\n"
        "if mpirun.join().rank == 0: train.Trainer = failing\n"
        "main(sys.argv[1:] + ['--out', 'second'])"
    )
    arguments = [
        MPIRUN,
        "-n",
        "2",
        sys.executable,
        "-c",
        code,
        "train",
        *SIZES,
        "--draft-depth",
        "2",
        "--threads",
        "1",
    ]
    result = subprocess.run(
        arguments,
        env=environment(MINIMTP_PATIENCE="30"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode != 0 and checkpoint.read(tmp_path / "first").step == 30
    assert "KeyError: 'no room'" in result.stderr and "has not answered" not in result.stderr


@needs_mpi
@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds the process to kill in /proc"
)
def test_after_a_killed_process_the_run_ends_and_its_last_checkpoint_is_whole(tmp_path):
    out = tmp_path / "run"
    options = [
        "--checkpoint-every",
        "5",
        "--tokens",
        str(4000 * 4 * 32),
        "--evaluation-tokens",
        "0",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        command(out, *options),
        env=environment(MINIMTP_PATIENCE="30"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists(out) and time.monotonic() < deadline:
            time.sleep(0.1)
        workers = [
            pid
            for pid in _descendants(process.pid)
            if "minimtp" in _words(pid) and "mpirun" not in _words(pid)[0]
        ]
        assert len(workers) >= 2
        os.kill(max(workers), signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0 and re.search(
        r"resume .* mpirun -n 2 minimtp train .* --resume", errors
    )
    assert checkpoint.read(out).step >= 5


def _words(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return [""]


def _descendants(pid):
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
    found, added = {pid}, True
    while added:
        new = {child for child, parent in parents.items() if parent in found} - found
        found, added = found | new, bool(new)
    return found - {pid}


class DoneRequest:
    def Test(self):
        return True


class TwoProcesses:
    """An MPI whose second process sends what the first does, until it is killed.

    From transfer number `killed_at` on, MPICH's answer: transfers are complete, without data.
    """

    COMM_TYPE_SHARED = None
    rank, size = 0, 2

    def __init__(self, killed_at=None):
        self.COMM_WORLD, self.killed_at, self.transfers = self, killed_at, 0

    def Split_type(self, kind):
        return self

    def Abort(self, code):
        raise AssertionError("the launcher was asked to end all processes")

    def _transfer(self, target, both):
        if self.killed_at is None or self.transfers < self.killed_at:
            target[...] = both
        self.transfers += 1
        return DoneRequest()

    def Iallgather(self, row, table):
        return self._transfer(table, np.stack([row, row]))

    def Ialltoallv(self, sent, received):
        own = received[0].shape[1]
        return self._transfer(received[0], np.stack([sent[0][:own]] * 2))

    def Iallgatherv(self, part, received):
        return self._transfer(received[0], np.resize(part, received[0].shape))


@pytest.mark.parametrize("killed_at", [*range(8), None])
def test_a_transfer_that_ends_without_its_data_is_never_used(monkeypatch, killed_at):
    monkeypatch.setattr(distributed.atexit, "register", lambda function: None)
    group = distributed.ProcessGroup(TwoProcesses(killed_at), patience=1)

    def step(value):
        losses = group.sum_losses(lambda: np.array([value]), 1)
        gradients = np.full(6, value, np.float32)
        group.sum_in_place(gradients)
        return losses, gradients

    finished = 0
    try:
        for number in (1.0, 2.0):
            losses, gradients = step(number)
            assert losses == 2 * number and (gradients == 2 * number).all()
            finished += 1
    except distributed.ProcessLost as lost:
        assert killed_at is not None and "another process has ended" in str(lost)
    transfers_per_step = 4  # the losses, two for the sum, and its confirmation
    assert finished == (2 if killed_at is None else killed_at // transfers_per_step)


@needs_mpi
def test_a_run_stopped_at_a_step_is_resumed_with_the_same_number_of_processes(tmp_path):
    result = run(tmp_path / "run", "--stop-at-step", "5")
    assert (
        f"saved at step 5; resume with: mpirun -n 2 minimtp train --out {tmp_path / 'run'} --resume"
        in result.stdout
    )


@pytest.mark.parametrize(("size", "start"), [(1, "minimtp"), (3, "mpirun -n 3 minimtp")])
def test_an_interrupted_run_is_resumed_with_the_same_number_of_processes(monkeypatch, size, start):
    group = distributed.SingleProcess()
    group.size = size
    monkeypatch.setattr(mpirun, "_joined", group)
    assert str(Interrupted(Path("run"), 5, 30)).endswith(
        f"; resume with: {start} train --out run --resume"
    )


def test_under_mpirun_without_mpi4py_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(
        UserError, match=r"started 2 processes, but mpi4py cannot be used .*minimtp\[mpi\]"
    ):
        mpirun.join()


@pytest.mark.parametrize(
    "started", [("PMI_SIZE", "PMI_RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")]
)
def test_under_mpirun_a_command_for_one_process_is_refused_once_in_one_sentence(
    monkeypatch, capsys, started
):
    for name in (*mpirun.SIZE_VARIABLES, *mpirun.RANK_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    size, rank = started
    monkeypatch.setenv(size, "2")
    for number in ("0", "1"):
        monkeypatch.setenv(rank, number)
        try:
            code = main(["compare", "--preset", "tiny"])
        except SystemExit as ended:
            code = ended.code
        message = capsys.readouterr().err
        assert code == 2 and ("compare runs in one process" in message) == (number == "0")
        assert message.count("\n") == (number == "0")
    monkeypatch.setenv(size, "1")
    assert main(["doctor"]) == 0


def test_without_mpirun_there_is_one_process(monkeypatch):
    for name in mpirun.SIZE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    group = mpirun.join()
    assert type(group) is distributed.SingleProcess and not group.any(False) and group.any(True)
    assert np.array_equal(group.sum_losses(lambda: np.ones(2), 2), np.ones(2))
