"""`bench decode`: every variant and rule has a row; bad options are refused before the start."""

import importlib.util
import itertools
import json
import shutil
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.bench.decode import prompts, speed
from minimtp.bench.interleaved import Speed
from minimtp.cli import main
from minimtp.decode.rules.registry import RULES
from minimtp.errors import UserError
from tests.bench.decode.conftest import SIZES

RULES_BY_TEMPERATURE = {0.0: RULES[:1], 0.7: RULES, 1.0: RULES}
CONDITIONS = {"machine", "versions", "recipe", "sizes", "seconds_per_pass", "kernels", "seed"}


def test_every_variant_has_a_row_with_every_rule_on_every_text_at_every_temperature(measured):
    _, result = measured
    keys = ("text", "temperature", "variant", "rule")
    rows = {tuple(row[key] for key in keys): row for row in result["rows"]}
    variants = list(dict.fromkeys(row["variant"] for row in result["rows"]))
    assert variants[0] == "plain"
    drafters = {variant.partition(",")[0] for variant in variants}
    assert len(drafters) == 5 and {"plain", "heads", "n-gram", "combined"} < drafters
    modes = ("7 drafts", "min confidence", "tree of 7", "adaptive", "trees, adaptive")
    assert {f"heads, {mode}" for mode in modes} <= set(variants)
    texts = [text for text in prompts.TEXTS if text not in result["missing"]]
    expected = {
        (text, temperature, variant, rule)
        for text, temperature, variant in itertools.product(texts, RULES_BY_TEMPERATURE, variants)
        for rule in RULES_BY_TEMPERATURE[temperature]
    }
    assert rows.keys() == expected
    assert len(result["rows"]) == len(rows)


def test_the_figures_of_a_row_are_consistent(measured):
    for row in measured[1]["rows"]:
        assert row["slowest"] <= row["tokens_per_second"] <= row["fastest"]
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        five_digits = 1e-4  # both numbers are rounded in the file
        assert 1 <= row["tokens_per_step"] <= 1 + row["drafted_per_step"] + five_digits
        if row["variant"] == "plain":
            assert row["drafted_per_step"] == 0 and row["acceptance"] == []
            assert row["speedup"] == 1 or row["rule"] != RULES[0]


def test_the_file_holds_the_conditions_of_the_measurement_and_lies_beside_its_plot(measured):
    out, result = measured
    assert result.keys() >= CONDITIONS
    plotted = importlib.util.find_spec("matplotlib") is not None
    assert (out / "bench-decode.png").exists() == plotted


def test_with_the_default_rule_every_drafter_generates_the_text_of_plain_decoding(measured):
    for row in measured[1]["rows"]:
        if row["rule"] == RULES[0]:
            assert row["equal_texts"] == row["texts"] == 2, row


def test_the_prediction_is_tokens_per_step_over_the_cost_of_a_step():
    counts = dict(steps=4, passes_of_length=[0, 1, 0, 3], drafting_seconds_per_step=0.5)
    found = Speed(0, 0, 0, 2.5, [], [], [], **counts)
    expected = 2.5 * 2.0 / ((2.0 + 3 * 3.0) / 4 + 0.5)
    assert speed.predicted_speedup(found, [2.0, 2.5, 3.0]) == pytest.approx(expected)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 5))
def test_repetitions_of_a_period_count_as_repeated(period, times):
    text = period * (times + speed.STRETCH)
    again = len(text) - speed.STRETCH - len(period)
    assert speed.repeated_share(text) >= again / (len(text) - speed.STRETCH)


def test_text_without_repetitions_has_a_repeated_share_of_zero():
    assert speed.repeated_share(range(100)) == 0.0
    assert speed.repeated_share([0] * speed.STRETCH) == 0.0


def test_a_text_that_is_not_installed_is_left_out_with_the_reason(run, monkeypatch, capsys):
    def missing(sources, tokenizer):
        raise UserError("the corpus shakespeare is not installed")

    monkeypatch.setattr(prompts, "open_corpus", missing)
    assert main(["bench", "decode", str(run), *SIZES, "--temperatures", "0"]) == 0
    printed = capsys.readouterr().out
    assert "prose is left out: the corpus shakespeare is not installed" in printed
    assert "random T=0" in printed and "prose T=0" not in printed
    assert main(["bench", "decode", str(run), *SIZES, "--texts", "prose"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompts", "0"], "prompts must be a whole number from 1"),
        (["--max-new-tokens", "1M"], "max new tokens must be a whole number from 1 to 10000"),
        (["--temperatures", "-1"], "temperature must be 0"),
        (["--texts", "poetry"], "--texts must be one of"),
        (["--small", "nowhere"], "nowhere"),
        (["--out", "file"], "file is a file: give the name of a folder"),
    ],
    ids=str,
)
def test_a_bad_option_is_refused_before_the_measurement_begins(
    run, arguments, words, tmp_path, monkeypatch, capsys
):
    def begin(*arguments, **options):
        pytest.fail("the measurement began")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(speed, "measure_interleaved", begin)
    assert main(["bench", "decode", str(run), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err


def test_a_draft_model_with_another_tokenizer_is_refused(run, tmp_path, monkeypatch):
    other = shutil.copytree(run, tmp_path / "other")
    small = speed.load(other)
    small.tokenizer.vocabulary_size += 1  # of this tokenizer, not of its class
    monkeypatch.setattr(speed, "load_draft", lambda path, target: small)
    with pytest.raises(UserError, match="tokenizer"):
        speed.measure_decoding(run, small=other, report=lambda line: None)


def test_results_are_saved_before_their_table_is_printed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "tables", Mock(side_effect=BrokenPipeError))
    options = dict(temperatures=[0.0], texts=["random"], out=tmp_path, report=lambda line: None)
    with pytest.raises(BrokenPipeError):
        speed.measure_decoding(run, sizes=prompts.Sizes(1, 6, 6, 1), **options)
    assert json.loads((tmp_path / speed.FILE_NAME).read_text(encoding="utf-8"))["rows"]
