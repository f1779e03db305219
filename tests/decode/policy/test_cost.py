"""Costs are measured once per context bucket and stored in a file. An unusable file is ignored."""

import json

import pytest

from minimtp.backend import numpy as np
from minimtp.decode.policy import cost
from minimtp.decode.policy.cost import MEASURED, Costs, measure
from tests.helpers.table_models import TableTarget


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMTP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counting(TableTarget):
    """A target that counts its forward passes by number of tokens."""

    def __init__(self, context_length=600):
        super().__init__(4, context_length)
        self.passes = {}

    def logits(self, prefix):
        return np.zeros(4)

    def forward(self, tokens):
        self.passes[len(tokens)] = self.passes.get(len(tokens), 0) + 1
        return super().forward(tokens)


def test_measure_times_every_number_of_tokens_and_keeps_the_cached_rows():
    target = Counting()
    target.forward(np.array([1, 2, 3]))
    target.passes.clear()
    seconds = measure(target)
    assert target.cache == [1, 2, 3] and list(target.passes) == list(MEASURED)
    assert len(seconds) == len(MEASURED) and min(seconds) > 0


def test_a_bucket_is_measured_once_and_other_processes_read_it_from_the_file(folder):
    target, identity = Counting(), {"model": "small"}
    costs = Costs(target, 7, identity)
    first, end = costs.at(5)
    assert end == 128 and len(first) == 8 and first == sorted(first)
    passes = dict(target.passes)
    assert costs.at(127) == (first, 128) and Costs(target, 7, identity).at(0) == (first, 128)
    assert target.passes == passes
    assert costs.at(128)[1] == 512 and target.passes != passes
    files = list(folder.iterdir())
    assert len(files) == 1 and set(json.loads(files[0].read_text())["seconds"]) == {"128", "512"}


def test_costs_of_unmeasured_numbers_of_tokens_are_interpolated_and_extrapolated_linearly(
    monkeypatch,
):
    monkeypatch.setattr(cost, "measure", lambda target: [float(10 + rows) for rows in MEASURED])
    expected = [float(10 + rows) for rows in range(1, 31)]
    assert Costs(Counting(), 29).at(0)[0] == pytest.approx(expected)


def test_each_identity_has_its_own_file(folder):
    for name in ("a", "b"):
        Costs(Counting(), 3, {"model": name}).at(0)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"identity": 1, "seconds": {}}',
        '{"identity": {"model": "x"}, "seconds": {"128": [1, 2]}}',
        '{"identity": {"model": "x"}, "seconds": {"128": "fast"}}',
        '{"identity": {"model": "x"}, "seconds": 3}',
        f'{{"identity": {{"model": "x"}}, "seconds": {{"128": [{", ".join(["NaN"] * 8)}]}}}}',
        f'{{"identity": {{"model": "x"}}, "seconds": {{"128": [{", ".join(["1e-320"] * 8)}]}}}}',
        f'{{"identity": {{"model": "x"}}, "seconds": {{"128": [{", ".join(["true"] * 8)}]}}}}',
        "[" * 100_000,
    ],
    ids=range(11),
)
def test_if_the_file_is_unusable_the_costs_are_measured_again_and_the_file_is_replaced(
    folder, content, capsys
):
    identity = {"model": "x"}
    Costs(Counting(), 3, identity).at(0)
    (path,) = folder.iterdir()
    path.write_text(content)
    target = Counting()
    found = Costs(target, 3, identity).at(0)
    assert target.passes
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"minimtp: {path}")
    assert said.endswith(": it is measured again\n")
    again = Counting()
    assert Costs(again, 3, identity).at(0) == found and not again.passes


def test_without_an_identity_no_file_is_written(folder):
    Costs(Counting(), 3).at(0)
    assert not folder.exists()


def test_if_the_cache_folder_cannot_be_created_the_costs_stay_in_memory(folder):
    folder.write_text("a file in place of the folder")
    target = Counting()
    costs = Costs(target, 3, {"model": "x"})
    found, passes = costs.at(0), dict(target.passes)
    assert costs.at(0) == found and target.passes == passes
    assert folder.read_text() == "a file in place of the folder"


@pytest.mark.parametrize("room", [2, 3, 15])
def test_near_the_end_of_the_context_only_passes_that_fit_are_measured_and_no_file_is_written(
    folder, room
):
    target = Counting(64)
    target.forward(np.zeros(64 - room, np.int64))
    seconds, _ = Costs(target, 7, {"model": "x"}).at(target.length)
    assert len(seconds) == 8 and min(seconds) > 0
    assert target.length == 64 - room
    assert not folder.exists()


def test_on_linux_the_default_cache_folder_is_below_xdg_cache_home(monkeypatch, tmp_path):
    monkeypatch.delenv("MINIMTP_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cost._cache_folder() == tmp_path / "minimtp"


def test_costs_are_measured_on_the_calling_clone_and_shared_by_all_clones():
    target, other = Counting(1200), Counting(1200)
    other.forward(np.zeros(600, np.int64))
    other.passes.clear()
    costs = Costs(target, 3)
    found = costs.of(other).at(600)
    assert other.passes and not target.passes
    assert costs.at(600) == found and costs.of(target).at(601) == found and not target.passes


def test_an_incomplete_measurement_is_reused_until_a_sequence_has_room_for_longer_passes():
    """Otherwise every sequence near the end of its context would measure again."""
    target, roomier = Counting(140), Counting(140)
    target.forward(np.zeros(138, np.int64))
    roomier.forward(np.zeros(130, np.int64))
    costs = Costs(target, 3)
    costs.at(138)
    passes = dict(target.passes)
    costs.at(138)
    assert target.passes == passes and set(passes) == {138, 1, 2}
    costs.of(roomier).at(130)
    assert set(roomier.passes) == {130, 1, 2, 3, 4, 6, 8}


def test_if_the_context_is_full_nothing_is_measured_and_the_costs_are_zero():
    target = Counting(130)
    target.forward(np.zeros(130, np.int64))
    assert Costs(target, 3).at(130) == ([0.0] * 4, 512) and target.passes == {130: 1}
