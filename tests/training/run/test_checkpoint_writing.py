"""A checkpoint is always complete, whatever happens while it is written."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import FILE_NAME
from tests.training.run.helpers import small


@pytest.mark.skipif(os.name != "posix", reason="only POSIX limits the size of files")
def test_if_the_disk_is_full_the_previous_checkpoint_stays_intact(tmp_path):
    import resource

    checkpoint.write(tmp_path, small(step=1))
    large = dataclasses.replace(small(step=2), parameters={"a": np.zeros(2**20, np.float32)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(
            UserError,
            match=r"cannot be written .*\(File too large\).*the previous checkpoint is intact",
        ):
            checkpoint.write(tmp_path, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.read(tmp_path).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE_NAME, "recipe.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), PermissionError(errno.EACCES, "denied")],
)
def test_if_writing_fails_at_any_moment_the_previous_checkpoint_stays_intact(
    tmp_path, monkeypatch, call, error
):
    checkpoint.write(tmp_path, small(step=1))

    def fail(*arguments):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(UserError, match=error.strerror):
            checkpoint.write(tmp_path, small(step=2))
    assert checkpoint.read(tmp_path).step == 1
    checkpoint.write(tmp_path, small(step=3))
    assert checkpoint.read(tmp_path).step == 3


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="the folder .* cannot be made"):
        checkpoint.write(tmp_path / "file" / "run", small())


def test_if_the_process_is_killed_while_writing_the_checkpoint_is_complete(tmp_path):
    """A process that writes checkpoints in a loop is killed at three arbitrary moments."""
    code = """
import sys
from minimtp.backend import numpy as np
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.presets import preset
for step in range(int(sys.argv[2]), 10**6):
    arrays = {"a": np.full(10**6, step, np.float32)}
    checkpoint.write(sys.argv[1], Checkpoint(preset("tiny"), arrays, step=step))
    print(step, flush=True)
"""
    last = 0
    for delay in (0.013, 0.034, 0.055):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(last + 1)],
            stdout=subprocess.PIPE,
            text=True,
        )
        printed = [int(process.stdout.readline())]
        time.sleep(delay)
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        printed += [int(line) for line in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        read = checkpoint.read(tmp_path)
        assert (read.parameters["a"] == read.step).all()
        # it may have been killed between writing and printing
        assert read.step in (printed[-1], printed[-1] + 1)
        last = read.step
    checkpoint.write(tmp_path, small())  # deletes the temporary files of the killed processes
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE_NAME, "recipe.json"]


@pytest.mark.parametrize("name", checkpoint.HUGGINGFACE_FILES)
def test_a_checkpoint_is_not_written_beside_another_model_which_it_would_hide(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name} seems to belong to another model"):
        checkpoint.check_place(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
