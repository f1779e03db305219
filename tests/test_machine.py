"""The number of cores that a process may use."""

import os

import pytest

from minimtp import machine


@pytest.mark.parametrize(
    ("limit", "visible", "cores"),
    [
        ("max 100000", 8, 8),
        ("200000 100000", 8, 2),
        ("150000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("1600000 100000", 8, 8),
        ("0 100000", 8, 1),
        ("-1 100000", 8, 1),
        ("100000 0", 8, 8),
        ("nonsense", 8, 8),
        ("", 8, 8),
        (None, 8, 8),
        (None, 0, 1),
        ("max 100000", 1, 1),
    ],
)
def test_the_cores_are_those_of_the_affinity_mask_and_of_the_container(
    tmp_path, monkeypatch, limit, visible, cores
):
    path = tmp_path / "cpu.max"
    if limit is not None:
        path.write_text(limit)
    monkeypatch.setattr(machine, "CONTAINER_LIMIT", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(visible)), raising=False)
    assert machine.available_cores() == cores


def test_without_an_affinity_mask_all_cores_count_and_at_least_one(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CONTAINER_LIMIT", tmp_path / "missing")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for counted, cores in ((3, 3), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda counted=counted: counted)
        assert machine.available_cores() == cores


def test_a_container_limits_the_memory(monkeypatch):
    whole = machine.total_memory()
    assert whole > 10**8
    monkeypatch.setattr(machine, "_container_bytes", lambda name: 10**7)
    assert machine.total_memory() == 10**7
    monkeypatch.setattr(machine, "_container_bytes", lambda name: int("max"))
    assert machine.total_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_limit_of_the_process_limits_the_memory(monkeypatch):
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    limit = machine._status_bytes("VmSize:") + 5 * 10**7
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert 0 < machine.available_memory() <= 5 * 10**7
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1, 1))
    assert machine.available_memory() == 0


def test_files_in_the_memory_of_a_container_count_as_free(monkeypatch):
    numbers = {"max": 10**8, "current": 9 * 10**7}
    monkeypatch.setattr(machine, "_container_bytes", numbers.__getitem__)
    monkeypatch.setattr(machine, "_container_cache", lambda: 5 * 10**7)
    assert machine.available_memory() == 6 * 10**7
