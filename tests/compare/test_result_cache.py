"""Finished measurements are read back; a damaged file, or one of another setting, is ignored."""

import math

import pytest

from minimtp.compare.result_cache import ResultCache, without_nan

SETTING = {"preset": "tiny", "depths": (4, 7)}


def test_a_stored_part_is_not_measured_again(tmp_path):
    def fail():
        pytest.fail("measured again")

    path = tmp_path / "measured.json"
    assert ResultCache(path, SETTING).get("memory", lambda: {"mtp": 1}) == {"mtp": 1}
    assert ResultCache(path, SETTING).get("memory", fail) == {"mtp": 1}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"setting": 1, "parts": {"memory": {}}}'])
def test_a_file_that_is_damaged_or_has_another_setting_is_measured_again(content, tmp_path):
    (tmp_path / "measured.json").write_text(content)
    cache = ResultCache(tmp_path / "measured.json", SETTING)
    assert cache.get("memory", lambda: {"mtp": 1}) == {"mtp": 1}


def test_seconds_add_up_over_sessions_even_if_one_is_interrupted(tmp_path):
    path = tmp_path / "measured.json"
    first = ResultCache(path, SETTING)
    with pytest.raises(KeyboardInterrupt), first.counting():
        raise KeyboardInterrupt
    second = ResultCache(path, SETTING)
    with second.counting():
        pass
    assert second.seconds > first.seconds > 0


def test_nan_is_stored_as_null():
    assert without_nan({"acceptance": [0.5, math.nan], "depths": (1, 2)}) == {
        "acceptance": [0.5, None],
        "depths": [1, 2],
    }
