"""bench sampling: the time of choosing a token from a large vocabulary."""

import json

import pytest

from minimtp.bench.decode import sampling as bench
from minimtp.cli import main
from minimtp.errors import UserError
from tests.kernels.both import needs_numba


@needs_numba
def test_every_operation_is_measured_compiled_and_plain_and_stored(tmp_path, capsys):
    out = tmp_path / "sampling.json"
    arguments = ["--vocabulary-size", "300", "--rounds", "2", "--out", str(out)]
    assert main(["bench", "sampling", *arguments]) == 0
    result = json.loads(out.read_text())
    names = [row["operation"] for row in result["rows"]]
    assert names[0] == bench.OUTPUT and len(set(names)) == len(names) == 10
    assert all(row["microseconds"] > 0 for row in result["rows"])
    without_plain = [row["operation"] for row in result["rows"] if not row["microseconds_plain"]]
    assert [name.split(",")[0] for name in without_plain] == [
        "output layer", "shared noise of one position", "repetition penalty",
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert bench.table(result).splitlines()[0] in printed and str(out) in printed
    assert bench.table(result, markdown=True).count("\n| ") == len(names) + 1


@needs_numba
def test_shares_are_of_the_output_layer(tmp_path):
    result = bench.measure_sampling(96, rounds=1, report=lambda line: None)
    for row, time in zip(result["rows"], (200.0, 50.0, *[10.0] * 8), strict=True):
        row["microseconds"] = time
    lines = bench.table(result).splitlines()
    assert "100.0%" in lines[1] and "25.0%" in lines[2] and "5.0%" in lines[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": 63}, "vocabulary_size must be a whole number from 64 to 1048576"),
        ({"vocabulary_size": 2**20 + 1}, "from 64 to 1048576, not 1048577"),
        ({"rounds": 0}, "rounds must be a whole number from 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, options, message):
    out = tmp_path / "sampling.json"
    with pytest.raises(UserError, match=message):
        bench.measure_sampling(out=out, **options)
    assert not out.exists()


def test_without_compiled_kernels_there_is_nothing_to_measure(monkeypatch):
    monkeypatch.setattr("minimtp.kernels._choice", "plain")
    with pytest.raises(UserError, match="no compiled kernels to measure: requested"):
        bench.measure_sampling()
