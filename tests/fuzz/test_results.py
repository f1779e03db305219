"""Mutants of results and caches: the right result, or one sentence with the name."""

import copy
import json
from collections.abc import Iterator

import pytest

from minimtp.bench.quality import measure as quality
from minimtp.compare import run as comparison
from minimtp.compare.configurations import TITLES
from minimtp.compare.report import print_report
from minimtp.compare.result_cache import ResultCache
from minimtp.compare.schema import speed_part
from minimtp.decode.policy.cost import MEASURED, Costs
from minimtp.records import notice
from tests.fuzz.mutate import check_sentence
from tests.fuzz.test_files import mutants, quiet, refusals

pytestmark = pytest.mark.slow


def result_of_a_comparison() -> dict:
    speed = {
        "tokens_per_second": 10.0, "tokens_per_second_slowest": 9.0,
        "tokens_per_second_fastest": 11.0, "tokens_per_step": 1.5, "speedup": 2.0,
        "draft_depth": 3, "min_confidence": 0.1, "acceptance": [0.5, None],
    }  # fmt: skip
    configurations = [
        {
            "name": name, "title": title, "folder": f"out/{name}", "bits_per_byte": 2.5,
            "next_token_accuracy": 0.5, "accuracy": [0.5], "quality_percent": 99.0,
            "weight_bytes": 1000, "bits_per_weight": 4.5, "peak_memory_bytes": 3000,
            "cache_bytes": 500, "greedy_texts": {"texts": 2, "equal": 2, "ties": 0, "wrong": []},
            **speed, **{f"{key}_t1": value for key, value in speed.items()},
        } for name, title in TITLES.items()
    ]  # fmt: skip
    return SETTING | {"configurations": configurations, "seconds": 12.5, "claims": []}


SETTING = {
    "preset": "tiny", "recipes": {"standard": {"tokens": 5}}, "sizes": {"prompts": 2},
    "corpus": {"name": "poem"}, "device": {"name": "cpu", "kernels": "plain", "threads": 1},
    "minimtp_version": "0.2.0",
}  # fmt: skip


def test_a_damaged_compare_json_is_refused_or_can_be_printed(tmp_path):
    path, result = tmp_path / comparison.FILE_NAME, result_of_a_comparison()

    def show() -> object:
        found = comparison.finished_result(tmp_path, SETTING)
        print_report(found, tmp_path, quiet)
        comparison.require_equal_texts(found["configurations"])
        return found

    path.write_text(json.dumps(result))
    assert show() == result
    assert refusals(path, mutants_without_wrong_texts(result, 500), show) > 300


def mutants_without_wrong_texts(result: dict, count: int) -> Iterator[bytes]:
    """Leave out the mutants with a drafted text that differs. For them, exit code 1 is right."""
    for content in mutants(result, count):
        if b'"wrong": []' in content and content.count(b'"wrong": []') == len(TITLES):
            yield content


def test_a_damaged_measured_json_gives_valid_parts_and_at_most_one_line_each(tmp_path):
    part = {name: result_of_a_comparison()["configurations"][0] for name in TITLES}
    path, form = tmp_path / comparison.CACHE_NAME, speed_part("", TITLES)
    content = {"setting": SETTING, "parts": {"temperature 0": part}, "seconds": 3.5}
    for mutant in mutants(content, 300):
        path.write_bytes(mutant)
        said: list[str] = []
        cache = ResultCache(path, SETTING, said.append)
        found = cache.get("temperature 0", lambda: copy.deepcopy(part), form)
        assert all(0 < found[name]["tokens_per_second"] < 1e308 for name in TITLES)
        assert cache.seconds >= 0 and len(said) <= 2
        for sentence in said:
            check_sentence(sentence, path)
        assert json.loads(path.read_bytes())["parts"]


def test_a_damaged_quality_json_is_refused_or_gives_valid_cells(tmp_path):
    path = tmp_path / quality.FILE_NAME
    setting = {"measurement": "quality", "preset": "tiny"}
    cells = {
        f"{method} at {bits} bits, seed 0": {
            "seed": 0, "bits": bits, "method": method, "nats": 1.5, "bytes": 9,
            "bits_per_weight": 4.5, "seconds": 1.0,
        } for bits, method in ((32, "fp"), (4, "rtn"))
    }  # fmt: skip

    def show() -> object:
        found = quality._finished_cells(tmp_path, setting)
        return quality.summary(list(found.values())) if len(found) == 2 else None

    assert refusals(path, mutants(setting | {"cells": cells}, 300), show) > 200


def test_a_damaged_cost_file_is_measured_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINIMTP_CACHE", str(tmp_path))
    measured = [0.001 * (1 + k) for k in range(len(MEASURED))]
    monkeypatch.setattr("minimtp.decode.policy.cost.measure", lambda target: measured)
    monkeypatch.setattr("minimtp.decode.policy.cost._fitting", lambda target: list(MEASURED))
    identity = {"model": "x", "threads": 1}
    Costs(None, 7, identity).at(0)
    (path,) = tmp_path.iterdir()
    for mutant in mutants(json.loads(path.read_text()), 400):
        path.write_bytes(mutant)
        seconds, end = Costs(None, 7, identity).at(0)
        assert end == 128 and len(seconds) == 8 and seconds == sorted(seconds)
        assert 0 < seconds[0] and seconds[-1] <= 3600
        said = capsys.readouterr().err.splitlines()
        assert len(said) <= 1
        for line in said:
            check_sentence(line, path)


def test_a_notice_without_standard_error_is_lost_but_stops_nothing(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    notice("nobody reads this")
