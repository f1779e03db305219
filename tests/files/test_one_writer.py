"""A folder has one writer, and whoever comes second learns who it is."""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import minimtp
from minimtp.errors import UserError
from minimtp.files import OneWriter
from minimtp.files.one_writer import NAME
from minimtp.files.temporary import try_lock
from tests.files.obstacles import OBSTACLES, contents, plant

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and signals of POSIX")
ROOT = str(Path(minimtp.__file__).parents[1])
HOLDER = (
    "import sys\nfrom minimtp.files import OneWriter\n"
    "with OneWriter(sys.argv[1]) as writer:\n"
    "    writer.begin(); print('holds', flush=True); sys.stdin.read()\n"
)


@contextmanager
def another_process(folder):
    """A process that holds the folder in the block, and is then killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ROOT},
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == b"holds\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def test_a_second_process_is_refused_with_the_holder_until_that_one_is_killed(tmp_path):
    folder = tmp_path / "run"
    with another_process(folder) as holder:
        for _ in range(3):
            with pytest.raises(UserError) as error:
                OneWriter(folder)
        assert re.fullmatch(
            rf".*run is being written by process {holder.pid} on {socket.gethostname()} since "
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: wait until it ends, or choose another --out",
            str(error.value),
        )
        assert len(str(error.value)) <= 300
    with OneWriter(folder) as writer:
        assert not writer.begin()
    assert not list(folder.iterdir())


def test_the_lock_leaves_no_trace_and_a_folder_that_stayed_empty_is_removed(tmp_path):
    with OneWriter(tmp_path / "new") as writer:
        assert not (tmp_path / "new").exists()
        assert writer.begin()
        assert [path.name for path in (tmp_path / "new").iterdir()] == [NAME]
    assert not (tmp_path / "new").exists()
    with OneWriter(tmp_path / "new") as writer:
        writer.begin()
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_threads_of_one_process_exclude_each_other(tmp_path):
    held, most, refused = [], [], []

    def write() -> None:
        for _ in range(30):
            try:
                with OneWriter(tmp_path / "run") as writer:
                    writer.begin()
                    held.append(1)
                    most.append(len(held))
                    held.pop()
            except UserError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) + len(refused) == 120
    assert all("is being written by" in line for line in refused)


def test_a_lock_that_its_holder_deletes_while_the_next_one_takes_it_is_taken_again(
    tmp_path, monkeypatch
):
    calls = []

    def holder_leaves(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / NAME).unlink()
        return try_lock(descriptor)

    monkeypatch.setattr("minimtp.files.one_writer.try_lock", holder_leaves)
    with OneWriter(tmp_path):
        assert len(calls) == 2 and (tmp_path / NAME).is_file()
        with pytest.raises(UserError, match="is being written by process"):
            OneWriter(tmp_path)


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_whatever_is_in_the_way_of_the_lock_is_one_sentence_and_stays(tmp_path, obstacle):
    plant(obstacle, tmp_path / NAME)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=NAME) as error:
        OneWriter(tmp_path)
    assert len(str(error.value)) <= 300
    assert contents(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_costs_one_line(tmp_path, monkeypatch, capsys, number):
    fcntl = pytest.importorskip("fcntl", reason="only POSIX has these locks")

    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    with OneWriter(tmp_path / "run") as writer:
        writer.begin()
        writer.check()
        minimtp.files.write_text(tmp_path / "run" / "a", "b", minimtp.files.FileKind("a note"))
    assert re.fullmatch(r"minimtp: the disk of [^\n]*run has no locks: [^\n]*\n",
                        capsys.readouterr().err)  # fmt: skip
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]


@pytest.mark.parametrize("what", ["deleted", "moved", "replaced"])
def test_a_folder_that_was_deleted_or_moved_is_noticed(tmp_path, what):
    folder = tmp_path / "run"
    with OneWriter(folder) as writer:
        writer.begin()
        writer.check()
        if what == "deleted":
            shutil.rmtree(folder)
        else:
            folder.rename(tmp_path / "elsewhere")
        if what == "replaced":
            folder.mkdir()
        with pytest.raises(UserError, match="run was deleted or moved while") as error:
            writer.check()
        assert "disk space" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_locked_only_when_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with (
        OneWriter(tmp_path) as writer,
        pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"),
    ):
        writer.begin()


def test_a_process_that_does_not_write_needs_no_lock(tmp_path):
    with OneWriter(tmp_path) as first, OneWriter(tmp_path, needed=False) as second:
        first.begin()
        second.begin()
        second.check()
