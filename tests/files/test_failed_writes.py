"""A write that fails names the file that was asked for, and the reason of the system."""

import errno
import os
import re

import pytest

from minimtp.errors import UserError
from minimtp.files import atomic_write, new_folder, write_text
from tests.files.test_writing import NOTE, one_sentence

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the calls of POSIX")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_failed_write_whose_error_has_no_number_gets_the_reason_of_the_system(
    tmp_path, monkeypatch, number
):
    """NumPy's tofile says only "2048 requested and 648 written"."""

    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError) as error, atomic_write(tmp_path / "note", NOTE) as file:
        monkeypatch.setattr(os, "pwrite", fails)
        file.write(b"1")
        raise OSError("2048 requested and 648 written")
    assert os.strerror(number) in one_sentence(error) and "requested" not in one_sentence(error)
    assert not any(tmp_path.iterdir())


def test_a_failed_write_without_a_reason_keeps_the_words_of_the_library(tmp_path):
    with pytest.raises(UserError, match="odd words"), atomic_write(tmp_path / "note", NOTE):
        raise OSError("odd words")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("depth", [0, 8])
def test_a_failure_inside_a_new_folder_names_the_folder_that_was_asked_for(
    tmp_path, monkeypatch, depth
):
    place = tmp_path.joinpath(*["a long name of a folder"] * depth, "new")
    with pytest.raises(UserError) as error, new_folder(place) as partial:
        monkeypatch.setattr(os, "fsync", full_disk)
        write_text(partial / "note", "1", NOTE)
    assert re.search(r"new cannot be written \(No space left on device\)", one_sentence(error))
    assert "partial" not in one_sentence(error)


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")
