"""Blocks that are filled in place: only what was written whole is ever read."""

import errno

import pytest

from minimtp.errors import UserError
from minimtp.files import FileKind
from minimtp.files.sealed_blocks import SealedBlocks
from tests.files.obstacles import OBSTACLES, PRECIOUS

KIND = FileKind("a file of blocks", begins=b"minimtp blocks\n")


def opened(path, label="model 1", notices=None):
    return SealedBlocks(path, KIND, label, 5, (notices if notices is not None else []).append)


def test_blocks_are_read_as_they_were_written_in_any_order(tmp_path):
    blocks = opened(tmp_path / "states")
    assert blocks.read(0) is None and blocks.read(7) is None
    blocks.write(7, b"seven")
    blocks.write(2, b"\0\0\0\0\0")
    assert [blocks.read(i) for i in (7, 2, 0, 3)] == [b"seven", b"\0\0\0\0\0", None, None]
    blocks.close()
    again = opened(tmp_path / "states", notices=(notices := []))
    assert (again.read(7), notices) == (b"seven", [])
    again.delete()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", range(13), ids=lambda place: f"byte {place} of the block")
def test_a_block_with_a_changed_byte_counts_as_missing_and_is_reported_once(tmp_path, place):
    path = tmp_path / "states"
    blocks = opened(path)
    blocks.write(0, b"first")
    blocks.write(1, b"other")
    blocks.close()
    content = bytearray(path.read_bytes())
    content[4096 + place] ^= 1
    path.write_bytes(content)
    blocks = opened(path, notices=(notices := []))
    assert [blocks.read(0), blocks.read(1), blocks.read(0)] == [None, b"other", None]
    assert len(notices) == 1 and "is damaged: what is lost is computed again" in notices[0]
    blocks.write(0, b"again")
    assert blocks.read(0) == b"again"


@pytest.mark.parametrize("size", [4096, 4099, 4104, 4106])
def test_a_file_that_ends_within_a_block_has_the_blocks_before(tmp_path, size):
    path = tmp_path / "states"
    blocks = opened(path)
    blocks.write(0, b"first")
    blocks.close()
    path.write_bytes(path.read_bytes()[:size])
    assert opened(path).read(0) is None


def test_the_file_of_another_model_is_begun_anew_with_one_line(tmp_path):
    path = tmp_path / "states"
    blocks = opened(path, "model 1")
    blocks.write(0, b"first")
    blocks.close()
    other = opened(path, "model 2", notices := [])
    assert other.read(0) is None
    assert len(notices) == 1 and "belongs to another run or is damaged" in notices[0]


def test_a_file_of_the_users_is_kept_under_another_name(tmp_path, capsys):
    path = tmp_path / "states"
    path.write_bytes(PRECIOUS)
    opened(path).write(0, b"first")
    assert (tmp_path / "states.1").read_bytes() == PRECIOUS
    assert "was renamed to states.1" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in OBSTACLES if "of the user" not in name])
def test_anything_but_an_ordinary_file_is_an_error_and_stays(tmp_path, name):
    OBSTACLES[name](tmp_path / "states")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError):
        opened(tmp_path / "states")
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_one_sentence_and_the_blocks_before_can_be_read(tmp_path, monkeypatch):
    class FullDisk:
        def __init__(self, file):
            self.file = file

        def seek(self, place):
            self.file.seek(place)

        def read(self, size):
            return self.file.read(size)

        def write(self, content):
            self.file.write(content[:3])
            raise OSError(errno.ENOSPC, "No space left on device")

    blocks = opened(tmp_path / "states")
    blocks.write(0, b"first")
    monkeypatch.setattr(blocks, "_file", FullDisk(blocks._file))
    with pytest.raises(UserError, match="No space left on device.*: free disk space"):
        blocks.write(1, b"other")
    assert (blocks.read(0), blocks.read(1)) == (b"first", None)
