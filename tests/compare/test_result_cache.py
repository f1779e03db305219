"""Finished measurements are read back; a damaged file, or one of another setting, is ignored."""

import json
import random

import pytest
from msgspec import Struct

from minimtp.compare.result_cache import ResultCache
from minimtp.compare.schema import Cache
from minimtp.records import Count, check_value
from tests.fuzz.mutate import damaged_bytes, damaged_json, json_bytes

SETTING = {"preset": "tiny", "depths": (4, 7)}


def test_a_stored_part_is_not_measured_again(tmp_path):
    def fail():
        pytest.fail("measured again")

    path = tmp_path / "measured.json"
    assert ResultCache(path, SETTING).get("memory", lambda: {"mtp": 1}, dict) == {"mtp": 1}
    assert ResultCache(path, SETTING).get("memory", fail, dict) == {"mtp": 1}


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"setting": 1, "parts": {"memory": {}}}', "[" * 10**5]
)
def test_a_file_that_is_damaged_or_has_another_setting_is_measured_again(content, tmp_path):
    (tmp_path / "measured.json").write_text(content)
    said = []
    cache = ResultCache(tmp_path / "measured.json", SETTING, said.append)
    assert cache.get("memory", lambda: {"mtp": 1}, dict) == {"mtp": 1}
    assert len(said) == 1 and said[0].endswith(": it is measured again")


def test_only_the_damaged_part_is_measured_again(tmp_path):
    class Part(Struct):
        mtp: Count

    path, said = tmp_path / "measured.json", []
    parts = {"memory": {"mtp": "1"}, "speed": {"mtp": 2}}
    setting = {"preset": "tiny", "depths": [4, 7]}
    path.write_text(json.dumps({"setting": setting, "parts": parts, "seconds": 1.0}))
    cache = ResultCache(path, SETTING, said.append)
    assert cache.get("memory", lambda: {"mtp": 1}, Part) == {"mtp": 1}
    assert cache.get("speed", lambda: pytest.fail("measured again"), Part) == {"mtp": 2}
    assert said == [f'{path}: mtp is "1", but must be a whole number: memory is measured again']


def test_every_mutant_of_the_file_gives_valid_results(tmp_path):
    class Part(Struct):
        mtp: Count

    path, rng = tmp_path / "measured.json", random.Random(0)
    good = {"setting": {"a": 1}, "parts": {"memory": {"mtp": 3}}, "seconds": 1.5}
    for number in range(200):
        data = json_bytes(damaged_json(good, rng))
        path.write_bytes(damaged_bytes(data, rng) if number % 2 else data)
        cache = ResultCache(path, {"a": 1}, lambda line: None)
        result = cache.get("memory", lambda: {"mtp": 1}, Part)
        check_value(result, Part, path, "")
        check_value(json.loads(json.dumps(cache._content)), Cache, path, "")


def test_seconds_add_up_over_sessions_even_if_one_is_interrupted(tmp_path):
    path = tmp_path / "measured.json"
    first = ResultCache(path, SETTING)
    with pytest.raises(KeyboardInterrupt), first.counting():
        raise KeyboardInterrupt
    second = ResultCache(path, SETTING)
    with second.counting():
        pass
    assert second.seconds > first.seconds > 0
