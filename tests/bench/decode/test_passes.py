"""bench passes: the time of a forward pass by tokens, threads and cached positions."""

import json

import pytest

from minimtp.bench.baselines.llama_cpp.process import FoundLlama, find_llama
from minimtp.bench.decode import passes
from minimtp.bench.decode.passes import ROWS, measure_passes, table
from minimtp.cli import main
from minimtp.errors import UserError
from tests.kernels.both import needs_numba

pytestmark = needs_numba


def test_every_number_of_tokens_and_threads_is_measured_and_stored(run, tmp_path, capsys):
    out = tmp_path / "passes.json"
    arguments = ["--threads", "1", "3", "--cached", "5", "9", "--rounds", "2", "--out", str(out)]
    assert main(["bench", "passes", str(run), *arguments]) == 0
    result = json.loads(out.read_text())
    assert [(row["cached"], row["tokens"]) for row in result["rows"]] == [
        (cached, tokens) for cached in (5, 9) for tokens in ROWS
    ]
    assert result["threads"] == [1, 3]
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in result["rows"])
    printed = capsys.readouterr().out
    assert table(result).splitlines()[0] in printed and "3 threads" in printed
    text = table(result, markdown=True)
    assert text.count("\n| ") == len(result["rows"]) + 1


def test_formats_of_the_cache_are_measured_beside_each_other(run, capsys):
    arguments = ["--threads", "1", "--cached", "5", "--rounds", "1"]
    assert main(["bench", "passes", str(run), *arguments, "--kv-cache", "float32", "float16"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "float" in line]
    assert [row[1:3] for row in rows] == [
        [str(tokens), kind] for tokens in ROWS for kind in ("float32", "float16")
    ]


@pytest.mark.skipif(find_llama().python is None, reason=f"llama.cpp {find_llama().obstacle}")
def test_llama_cpp_is_measured_with_the_same_weights(run, capsys):
    arguments = ["--threads", "1", "--cached", "5", "--rounds", "1", "--llama-cpp"]
    assert main(["bench", "passes", str(run), *arguments, "--kv-cache", "float16", "int8"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for kind in ("  float16  ", "  int8  ", "  float16, llama.cpp  "):
        assert sum(kind in line for line in lines) == len(ROWS)


def test_without_llama_cpp_a_sentence_says_how_to_get_it(run, monkeypatch):
    missing = FoundLlama(None, obstacle="is not installed: pip install llama-cpp-python")
    monkeypatch.setattr(passes, "find_llama", lambda: missing)
    with pytest.raises(UserError, match="llama.cpp is not installed: pip install"):
        measure_passes(run, cached=[4], rounds=1, llama_cpp=True, report=lambda line: None)


def test_a_share_compares_reading_the_weights_with_the_pass_on_one_thread(run):
    result = measure_passes(run, threads=[2], cached=[4], rounds=1, report=lambda line: None)
    for row in result["rows"]:
        assert row["reading_share"] * row["seconds"][0] == pytest.approx(result["read_seconds"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": [0]}, "threads must be at least 1"),
        ({"cached": [10**6]}, "cached must be at least 1 and at most"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(run, tmp_path, options, message):
    out = tmp_path / "passes.json"
    with pytest.raises(UserError, match=message):
        measure_passes(run, out=out, **options)
    assert not out.exists()
