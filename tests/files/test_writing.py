"""Files are written whole, never over anything that minimtp did not write, and never through a
link.
"""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimtp
from minimtp.errors import UserError
from minimtp.files import (
    AppendedFile,
    FileKind,
    atomic_write,
    check_file,
    check_folder,
    delete,
    make_folder,
    new_folder,
    paths,
    set_aside,
    temporary,
    write_text,
)
from tests.files.obstacles import OBSTACLES, PRECIOUS, contents, plant

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and signals of POSIX")
NOTE = FileKind("a note", begins=b'{"note": ')
ROOT = str(Path(minimtp.__file__).parents[1])


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert len(text) <= 300 and "\n" not in text and text.isprintable(), text
    return text


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_whatever_is_in_the_way_of_a_file_is_one_sentence_and_stays(tmp_path, obstacle):
    path = tmp_path / "out" / "note.json"
    plant(obstacle, path)
    before = contents(tmp_path)
    for action in (
        lambda: check_file(path, NOTE), lambda: write_text(path, "new", NOTE),
        lambda: delete(path, NOTE),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            action()
        assert "note.json" in one_sentence(error)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_whatever_appears_while_a_file_is_written_stays(tmp_path, obstacle):
    path = tmp_path / "note.json"
    with pytest.raises(UserError) as error, atomic_write(path, NOTE) as file:
        file.write(b'{"note": 1}')
        plant(obstacle, path)
    before = contents(tmp_path)
    one_sentence(error)
    assert not [name for name in before if "partial" in name]
    with pytest.raises(UserError):
        write_text(path, "new", NOTE)
    assert contents(tmp_path) == before


def test_a_file_that_appears_in_the_last_moment_stays(tmp_path, monkeypatch):
    path, link = tmp_path / "note.json", os.link

    def link_too_late(source, target):
        path.write_bytes(PRECIOUS)
        link(source, target)

    monkeypatch.setattr(os, "link", link_too_late)
    with pytest.raises(UserError, match="exists and is not a note that minimtp wrote"):
        write_text(path, '{"note": 1}', NOTE)
    assert path.read_bytes() == PRECIOUS
    assert [found.name for found in tmp_path.iterdir()] == ["note.json"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.EMLINK])
def test_a_file_system_without_hard_links_is_written_all_the_same(tmp_path, monkeypatch, number):
    def fails(*paths):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fails)
    for content in ('{"note": 1}', '{"note": 2}'):
        write_text(tmp_path / "note.json", content, NOTE)
        assert (tmp_path / "note.json").read_text() == content
    assert len(list(tmp_path.iterdir())) == 1


@given(st.binary(max_size=60), st.booleans())
def test_only_an_empty_file_and_an_own_one_are_replaced(tmp_path_factory, content, own):
    path = tmp_path_factory.mktemp("one") / "note.json"
    content = b' {\n "note":' + content if own else content
    path.write_bytes(content)
    if own or not content:
        write_text(path, '{"note": 3}', NOTE)
        assert path.read_text() == '{"note": 3}'
    else:
        with pytest.raises(UserError, match="exists and is not a note"):
            write_text(path, '{"note": 3}', NOTE)
        assert path.read_bytes() == content


@pytest.mark.parametrize("folder", ["a/b/c", "link", "."])
def test_missing_folders_are_created_and_a_link_to_a_folder_is_one(tmp_path, folder):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / folder / "note.json", '{"note": 1}', NOTE)
    assert (tmp_path / folder / "note.json").read_text() == '{"note": 1}'


@pytest.mark.parametrize("obstacle", [name for name in OBSTACLES if "folder" not in name])
def test_anything_but_a_folder_where_a_folder_is_needed_is_one_sentence(tmp_path, obstacle):
    plant(obstacle, tmp_path / "runs")
    before = contents(tmp_path)
    for action in (
        lambda: make_folder(tmp_path / "runs"), lambda: check_folder(tmp_path / "runs"),
        lambda: make_folder(tmp_path / "runs" / "a"),
        lambda: write_text(tmp_path / "runs" / "a" / "note.json", "", NOTE),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            action()
        assert "runs" in one_sentence(error) and "disk space" not in str(error.value)
    assert contents(tmp_path) == before


def test_a_file_in_place_of_a_folder_is_called_a_file(tmp_path):
    (tmp_path / "poem.txt").write_bytes(PRECIOUS)
    with pytest.raises(UserError, match="poem.txt is a file: give the name of a folder"):
        make_folder(tmp_path / "poem.txt")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x" * 200 + "/" + "y" * 300, "/" * 5000])
def test_a_name_that_no_file_can_have_is_one_sentence(tmp_path, name):
    for action in (lambda path: write_text(path, "", NOTE), make_folder):
        if set(name) == {"/"} and action is make_folder:
            continue  # the root folder exists
        with pytest.raises(UserError) as error:
            action(Path(f"{tmp_path}/{name}"))
        one_sentence(error)


ADVICE = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "disk quota",
    errno.EFBIG: "ulimit -f",
    errno.ENOENT: "deleted or moved",
    errno.EACCES: "permissions",
    errno.EROFS: "a disk that can be written",
    errno.ENAMETOOLONG: "shorter name",
    errno.EIO: "check the disk",
}


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", ADVICE, ids=errno.errorcode.get)
def test_the_advice_fits_the_cause(tmp_path, monkeypatch, call, number):
    working = getattr(os, call)

    def fails(*arguments):
        if call == "open" and not arguments[1] & os.O_CREAT:
            return working(*arguments)
        raise OSError(number, os.strerror(number))

    write_text(tmp_path / "note.json", '{"note": 1}', NOTE)
    with monkeypatch.context() as patched, pytest.raises(UserError) as error:
        patched.setattr(os, call, fails)
        write_text(tmp_path / "note.json", '{"note": 2}', NOTE)
    assert ADVICE[number] in one_sentence(error) and os.strerror(number) in str(error.value)
    assert ("disk space" in str(error.value)) == (number == errno.ENOSPC)
    assert (tmp_path / "note.json").read_text() == '{"note": 1}'
    assert len(list(tmp_path.iterdir())) == 1


def test_a_read_only_or_locked_folder_is_reported_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"\(Permission denied\): change the permissions"):
        check_file(tmp_path / "note.json", NOTE)
    monkeypatch.setattr(os, "ST_RDONLY", 0xFFFF, raising=False)
    monkeypatch.setattr(paths.os, "statvfs", lambda path: os.statvfs_result([1] * 10))
    with pytest.raises(UserError, match=r"\(Read-only file system\): choose a path on a disk"):
        check_file(tmp_path / "note.json", NOTE)


def test_what_a_killed_writer_left_is_deleted_by_the_next_one_and_a_live_writer_is_left_alone(
    tmp_path,
):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from minimtp.files import FileKind, atomic_write, new_folder\n"
        "kind = FileKind('a note', begins=b'{')\n"
        "path = Path(sys.argv[1])\n"
        "with atomic_write(path, kind), new_folder(path.with_name('folder')) as folder:\n"
        "    (folder / 'x').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for _ in range(2):
        command = [sys.executable, "-c", code, str(tmp_path / "killed")]
        process = subprocess.run(command, env=os.environ | {"PYTHONPATH": ROOT})
        assert process.returncode == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if temporary.NAME.fullmatch(path.name)]
    assert len(left) == 2 and len({path.is_dir() for path in left}) == 2  # the second cleaned up
    (tmp_path / ".minimtp-mine.partial").write_bytes(PRECIOUS)
    (tmp_path / "download.partial").write_bytes(PRECIOUS)
    (tmp_path / f".minimtp-{'0' * 16}.partial").symlink_to("download.partial")
    with atomic_write(tmp_path / "slow.json", NOTE) as slow:
        slow.write(b'{"note": 1}')
        write_text(tmp_path / "quick.json", '{"note": 2}', NOTE)
    assert (tmp_path / "slow.json").read_bytes() == b'{"note": 1}'
    assert not any(path.exists() for path in left)
    assert (tmp_path / "download.partial").read_bytes() == PRECIOUS
    assert (tmp_path / ".minimtp-mine.partial").read_bytes() == PRECIOUS


def test_a_file_written_twice_at_once_is_one_of_the_two(tmp_path):
    path = tmp_path / "note.json"
    with atomic_write(path, NOTE) as first, atomic_write(path, NOTE) as second:
        assert first.name != second.name
        first.write(b'{"note": "first"}')
        second.write(b'{"note": "second"}')
    assert path.read_bytes() == b'{"note": "first"}'  # the second was moved first
    assert [found.name for found in tmp_path.iterdir()] == ["note.json"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "note.json", '{"note": 1}', NOTE)
    with pytest.raises(KeyError), atomic_write(tmp_path / "note.json", NOTE) as file:
        file.write(b"half")
        raise KeyError
    assert (tmp_path / "note.json").read_text() == '{"note": 1}'
    assert len(list(tmp_path.iterdir())) == 1


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "note.json", '{"note": 1}', NOTE)
    finally:
        os.umask(before)
    assert (tmp_path / "note.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("obstacle", [*OBSTACLES, "an empty folder", "an own folder"])
def test_a_folder_is_replaced_only_if_it_is_empty_or_an_own_one(tmp_path, obstacle):
    path = tmp_path / "texts"
    if obstacle == "an empty folder":
        path.mkdir()
    elif obstacle == "an own folder":
        with new_folder(path, ".mark") as folder:
            (folder / "old").touch()
    else:
        plant(obstacle, path)
    before = contents(tmp_path)
    if obstacle in ("an empty folder", "an own folder", "a folder"):
        with new_folder(path, ".mark") as folder:
            (folder / "new").write_text("new")
        assert contents(tmp_path).keys() == {"texts", "texts/.mark", "texts/new"}
    else:
        with pytest.raises(UserError) as error, new_folder(path, ".mark"):
            pass
        one_sentence(error)
        assert contents(tmp_path) == before


def test_lines_are_appended_at_once_and_a_deleted_log_is_begun_again(tmp_path):
    write_text(tmp_path / "log", '{"note": 1}\n', NOTE)
    log = AppendedFile(tmp_path / "log")
    log.write("two\n")
    assert (tmp_path / "log").read_text() == '{"note": 1}\ntwo\n'
    (tmp_path / "log").unlink()
    log.write("three\n")
    assert (tmp_path / "log").read_text() == "three\n"
    (tmp_path / "log").unlink()
    (tmp_path / "log").symlink_to("elsewhere")
    for _ in range(2):  # the file stays open after a failure
        with pytest.raises(UserError, match="log cannot be written"):
            log.write("four\n")
    assert not (tmp_path / "elsewhere").exists()
    log.close()


def test_a_link_that_replaces_a_checked_file_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "precious").write_bytes(PRECIOUS)
    (tmp_path / "log").symlink_to("precious")
    for action in (lambda: AppendedFile(tmp_path / "log"), lambda: paths.head_of(tmp_path / "log")):
        with pytest.raises(UserError, match="log"):
            action()
    monkeypatch.setattr(temporary.secrets, "token_hex", lambda size: "0" * 16)
    for taken in (Path.touch, lambda path: path.symlink_to("precious")):
        partial = tmp_path / f".minimtp-{'0' * 16}.partial"
        taken(partial)
        monkeypatch.setattr(temporary, "delete_leftovers", lambda folder: None)
        with pytest.raises(UserError, match=r"\(File exists\)"):
            write_text(tmp_path / "note.json", '{"note": 1}', NOTE)
        partial.unlink()
    assert (tmp_path / "precious").read_bytes() == PRECIOUS


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_cache_or_log_that_is_not_recognised_is_kept_under_another_name(
    tmp_path, obstacle, capsys
):
    path = tmp_path / "log"
    plant(obstacle, path)
    if not path.is_file() or path.is_symlink():
        with pytest.raises(UserError) as error:
            set_aside(path, NOTE)
        one_sentence(error)
        return
    content = path.read_bytes()
    (tmp_path / "log.1").write_bytes(b"taken")
    assert set_aside(path, NOTE) == tmp_path / "log.2"
    assert (tmp_path / "log.2").read_bytes() == content and not path.exists()
    said = capsys.readouterr().err
    assert re.fullmatch(r"minimtp: [^\n]*log is not a note: it was renamed to log.2\n", said)


@pytest.mark.parametrize("make", [temporary.new_file, temporary.new_folder])
def test_ctrl_c_while_a_temporary_is_made_leaves_nothing_behind(make, tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(temporary, "try_lock", interrupted)
    with pytest.raises(KeyboardInterrupt), make(tmp_path):
        raise AssertionError("the block must not run")
    assert [*tmp_path.iterdir()] == []


def test_a_file_with_the_name_of_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="new/ is the name of a folder: give the name of a file"):
        check_file(f"{tmp_path}/new/", FileKind("a test file", begins=b"{"))
