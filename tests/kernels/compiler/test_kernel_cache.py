"""The cache of compiled kernels: damaged files are replaced, and nothing stops a command."""

import random
import shutil

import pytest

pytest.importorskip("numba", reason="without Numba there are no compiled kernels")
import numba  # noqa: E402

from minimtp.kernels.cpu import kernel_cache  # noqa: E402
from minimtp.kernels.cpu.compiling import compiled  # noqa: E402
from tests.fuzz.mutate import damaged_bytes  # noqa: E402


def half(x):
    return x / 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of a cache that holds `half` for one type."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernel_cache, "_said", set())
    assert compiled(half)(3.0) == 1.5
    return tmp_path


def files_in(folder):
    """Return the index and the machine code."""
    (index,), (code,) = folder.rglob("*.half-*.nbi"), folder.rglob("*.half-*.nbc")
    return index, code


def hits():
    """Return how many compiled functions were loaded when `half` is called in a new process."""
    function = compiled(half)
    assert function(3.0) == 1.5
    return sum(function.stats.cache_hits.values())


def test_a_kernel_is_compiled_once_and_then_loaded(folder, capsys):
    assert hits() == 1 and capsys.readouterr().err.count("damaged") == 0


@pytest.mark.parametrize("which", [0, 1], ids=["index", "machine code"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:200] + b"\xff" * 8 + data[208:],
        lambda data: b"garbage" * 100,
    ],
    ids=["empty", "one byte", "half", "cut", "longer", "changed", "garbage"],
)
def test_a_damaged_file_is_replaced_and_costs_one_line(folder, capsys, which, spoil):
    path = files_in(folder)[which]
    path.write_bytes(spoil(path.read_bytes()))
    assert hits() == 0
    assert capsys.readouterr().err.count(f"{path} is damaged") == 1
    assert hits() == 1


@pytest.mark.slow
def test_no_mutant_of_the_cache_changes_a_result_or_stops_a_call(folder):
    good, rng = {path: path.read_bytes() for path in files_in(folder)}, random.Random(0)
    for number in range(150):
        for path, data in good.items():
            path.write_bytes(data)
        path = list(good)[number % 2]
        mutant = damaged_bytes(good[path], rng)
        path.write_bytes(mutant)
        assert hits() == (mutant == good[path])


def test_machine_code_of_another_function_is_not_used(folder):
    index, code = files_in(folder)
    other = code.with_name(code.name.replace("half", "other"))
    shutil.copy(code, other)
    assert kernel_cache._is_sealed(str(code)) and not kernel_cache._is_sealed(str(other))


def test_machine_code_of_another_signature_or_of_older_sources_is_not_used(folder, monkeypatch):
    """As if two processes had compiled at once, or one had been killed between the two files."""
    index, code = files_in(folder)
    before = index.read_bytes(), code.read_bytes()
    index.unlink()
    assert compiled(half)(3) == 1.5  # an integer: the other signature takes the same file name
    for_integers = code.read_bytes()
    assert for_integers != before[1]
    index.write_bytes(before[0])
    assert hits() == 0 and hits() == 1
    code.write_bytes(before[1])
    monkeypatch.setattr("minimtp.kernels.cpu.compiling._newest_source", 1.0)
    assert hits() == 0  # the index has the new stamp
    code.write_bytes(before[1])
    assert hits() == 0 and hits() == 1


@pytest.mark.parametrize("which", [0, 1], ids=["index", "machine code"])
def test_a_folder_in_the_place_of_a_file_stops_nothing(folder, capsys, which):
    path = files_in(folder)[which]
    path.unlink()
    path.mkdir()
    assert hits() == 0 and hits() == 0
    assert "kernels cannot be stored" in capsys.readouterr().err


def test_a_full_disk_stops_nothing(folder, capsys, monkeypatch):
    for path in files_in(folder):
        path.unlink()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        assert hits() == 0
    assert "cannot be stored (No space left on device)" in capsys.readouterr().err
    assert hits() == 0 and hits() == 1
