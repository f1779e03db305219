"""`bench llama` measures one model in minimtp and in llama.cpp. The library is a stand-in here."""

import json
import sys

import pytest

from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp import gguf_file, process
from minimtp.bench.decode.beside_llama import margin, measure_beside_llama
from minimtp.bench.decode.prompts import Sizes
from minimtp.cli import main
from minimtp.errors import UserError
from tests.bench.baselines.llama_cpp.test_process import library
from tests.helpers.table_models import TableTarget

assert library  # a fixture

SMALL = Sizes(2, 4, 6, repeats=2)


def test_both_engines_continue_the_same_prompts_with_every_number_of_threads(
    run, library, tmp_path
):
    lines = []
    found = measure_beside_llama(
        run, sizes=SMALL, threads=(1, 2), out=tmp_path / "out", report=lines.append
    )
    assert [row["name"] for row in found["rows"]] == [
        "minimtp", "llama.cpp, 1 thread", "llama.cpp, 2 threads",
    ]  # fmt: skip
    ours, one, two = found["rows"]
    assert (ours["minimtp_speedup"], ours["equal_texts"], ours["largest_margin"]) == (1, 2, 0)
    # The stand-in continues every prompt in its own way, with the same tokens every time.
    assert one["equal_texts"] == two["equal_texts"] < one["texts"] == 2
    assert one["largest_margin"] == two["largest_margin"] > 0
    for row in found["rows"]:
        assert 0 < row["slowest"] <= row["tokens_per_second"] <= row["fastest"]
        assert row["prompt_tokens_per_second"] > 0
    stored = json.loads((tmp_path / "out" / "bench-llama.json").read_text())
    assert stored["versions"]["llama_cpp"] == "table"
    assert [row["name"] for row in stored["rows"]] == [row["name"] for row in found["rows"]]
    assert "llama.cpp, 2 threads" in "\n".join(lines)


def test_the_margin_is_the_difference_of_the_two_logits_at_the_first_other_token():
    target = TableTarget()
    logits = target.logits((1, 0))
    found = margin(target, np.array([1]), [0, 2, 1], [0, 3, 1])
    assert found == pytest.approx(logits[2] - logits[3])


def test_a_gguf_file_is_measured_as_it_is(run, library, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    assert main(["export", str(run), "--out", str(tmp_path / "model.gguf")]) == 0
    monkeypatch.setattr(gguf_file, "write_gguf", None)
    found = measure_beside_llama(tmp_path / "model.gguf", sizes=SMALL, report=lambda line: None)
    assert found["file_bytes"] == (tmp_path / "model.gguf").stat().st_size


def test_without_llama_cpp_or_with_impossible_threads_the_command_says_so(run, monkeypatch):
    with pytest.raises(UserError, match="threads must be a whole number from 1 to 256, not 0"):
        measure_beside_llama(run, threads=(1, 0))
    monkeypatch.setenv(process.VARIABLE, f"{sys.executable}.missing")
    with pytest.raises(UserError, match=r"cannot be used in .*missing, which MINIMTP_LLAMA"):
        measure_beside_llama(run)
