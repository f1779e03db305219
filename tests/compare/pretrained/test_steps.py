"""A step's time and peak memory are its own, over all sessions."""

import pytest

from minimtp.compare.pretrained import steps as module
from minimtp.compare.pretrained.steps import Steps


def test_a_step_begins_with_the_freed_memory_of_the_previous_one_returned(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "return_freed_memory", lambda: calls.append("return"))
    monkeypatch.setattr(module.machine, "reset_peak_memory", lambda: calls.append("reset"))
    with Steps(tmp_path, lambda line: None).step("qat"):
        calls.append("step")
    assert calls == ["return", "reset", "step"]


def test_an_interrupted_step_adds_its_seconds_to_those_of_the_next_session(tmp_path, monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    peaks = iter([500, 200])
    monkeypatch.setattr(module.machine, "peak_memory_bytes", lambda: next(peaks))
    with pytest.raises(KeyboardInterrupt), Steps(tmp_path, lambda line: None).step("qat"):
        raise KeyboardInterrupt
    with Steps(tmp_path, lambda line: None).step("qat"):
        pass
    found = Steps(tmp_path, lambda line: None)
    assert found.seconds == {"qat": 7.0} and found.peak_memory_bytes == {"qat": 500}
