"""bench heads: how the acceptance of heads grew in training, from the logs of runs."""

import json

import pytest

from minimtp.bench.training.heads import measure_heads, table
from minimtp.cli import main
from minimtp.errors import UserError
from minimtp.training.run.log import read_log

SMALL = [
    *("--corpus", "poem.txt", "--preset", "tiny", "--hidden-size", "16", "--num-layers", "1"),
    *("--num-heads", "2", "--sequence-length", "16", "--batch-size", "2", "--tokens", "320"),
    *("--checkpoint-every", "4", "--evaluation-tokens", "64"),
]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs with heads of two kinds, and a third without heads, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poem.txt").write_bytes(b"roses are red, violets are blue.\n" * 90)
    for out, heads in (("a", "token_conditioned"), ("b", "parallel"), ("plain", "none")):
        extra = [] if heads == "none" else ["--heads", heads, "--draft-depth", "2"]
        assert main(["train", *SMALL, *extra, "--out", out]) == 0


def test_the_points_are_the_evaluations_of_the_logs(runs, capsys):
    capsys.readouterr()
    assert main(["bench", "heads", "a", "b", "--out", "heads.json"]) == 0
    with open("heads.json", encoding="utf-8") as file:
        result = json.load(file)
    assert table(result) in capsys.readouterr().out
    assert [(run["run"], run["heads"]) for run in result["runs"]] == [
        ("a", "token_conditioned"), ("b", "parallel")
    ]  # fmt: skip
    for name in "ab":
        points = [row for row in result["rows"] if row["run"] == name]
        assert [row["tokens"] for row in points] == [128, 256, 320]
        lines = [line for line in read_log(name) if line.get("evaluation")]
        for row, line in zip(points, lines, strict=True):
            assert row["accepted"] == pytest.approx(line["evaluation"]["acceptance"], rel=1e-4)
        assert sorted(row["seconds"] for row in points) == [row["seconds"] for row in points]


def test_a_number_of_tokens_that_one_run_has_not_leaves_empty_cells():
    point = {"seconds": 60.0, "accepted": [0.5]}
    runs = [{"run": name, "heads": "eagle3", "text_tokens": 100} for name in "ab"]
    rows = [{"run": "a", "tokens": 50, **point}, {"run": "b", "tokens": 200, **point}]
    lines = table({"runs": runs, "rows": rows}, markdown=True).splitlines()
    assert lines[2] == "| 50 | 0.5 | 1 | 0.500 |  |  |  |  |  |"
    assert lines[3] == "| 200 |  |  |  |  | 2.0 | 1 | 0.500 |  |"


def test_a_model_without_a_log_of_its_heads_is_refused(runs, capsys):
    with pytest.raises(UserError, match="^plain has no log of accepted drafts: give a folder"):
        measure_heads(["a", "plain"])
    capsys.readouterr()
    assert main(["bench", "heads", "a", "missing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
