"""A file that the system does not let us read is not called damaged, and nobody is told to delete
it.
"""

import builtins
import errno
import os

import pytest

from minimtp.cli import main
from minimtp.errors import UserError
from minimtp.formats.gguf.container import is_gguf, open_gguf
from minimtp.records import read_json
from minimtp.training.run.tensor_file import open_tensors

DELETE = "delete the file, and begin again"


def open_header(path):
    with open_tensors(path, DELETE):
        pass


READERS = {
    "JSON": lambda path: read_json(path, dict, advice=DELETE),
    "safetensors": open_header,
    "GGUF": open_gguf,
    "the beginning of GGUF": is_gguf,
}
REMEDIES = {
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files",
}


def refuse_to_open(patch, name, number):
    right = builtins.open

    def opened(file, *arguments, **options):
        if os.path.basename(os.fspath(file)) == name:
            raise OSError(number, os.strerror(number), file)
        return right(file, *arguments, **options)

    patch.setattr(builtins, "open", opened)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("number", REMEDIES)
def test_an_error_of_the_system_is_not_blamed_on_the_file(tmp_path, monkeypatch, kind, number):
    (tmp_path / "some.file").write_bytes(b"{}")
    refuse_to_open(monkeypatch, "some.file", number)
    with pytest.raises(UserError) as refused:
        READERS[kind](tmp_path / "some.file")
    sentence = str(refused.value)
    assert "some.file cannot be read (" in sentence and REMEDIES[number] in sentence
    assert "damaged" not in sentence and "delete" not in sentence


def test_a_checkpoint_without_permission_to_read_it_is_not_to_be_deleted(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    small = "--preset tiny --context-length 16 --tokens 640 --evaluation-tokens 0".split()
    (tmp_path / "poem.txt").write_bytes(b"roses are red, violets are blue\n" * 60)
    assert main(["train", *small, "--corpus", "poem.txt", "--out", "run"]) == 0
    refuse_to_open(monkeypatch, "checkpoint.safetensors", errno.EACCES)
    capsys.readouterr()
    assert main(["generate", "run"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("cannot be read (Permission denied): change its permissions\n")
