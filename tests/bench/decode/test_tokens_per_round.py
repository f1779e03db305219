"""`bench rounds` counts the tokens per round of every rule, with chains and trees."""

import json
from unittest.mock import Mock

import pytest

from minimtp.backend import numpy as np
from minimtp.bench.decode import tokens_per_round as rounds
from minimtp.bench.decode.variants import FIXED_DEPTH
from minimtp.cli import main
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.options import GenerationOptions
from minimtp.decode.rules.registry import RULES
from minimtp.decode.sampling.params import SamplingParams
from minimtp.formats.load import load


def test_every_rule_is_counted_with_chains_and_trees_from_the_same_places(run, tmp_path, capsys):
    command = ["bench", "rounds", str(run), "--places", "3", "--small", str(run)]
    command += ["--temperatures", "0", "1", "--texts", "random"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "bench-rounds.json").read_text(encoding="utf-8"))
    keys = ("drafter", "form", "rule", "temperature")
    rows = {tuple(row[key] for key in keys): row for row in result["rows"]}
    drafters = list(dict.fromkeys(row["drafter"] for row in result["rows"]))
    assert drafters[:3] == ["heads", "n-gram", "combined"] and len(drafters) == 4
    forms = {
        drafter: list(rounds.FORMS) if drafter == "heads" else ["chain"] for drafter in drafters
    }
    rules = {0.0: RULES[:1], 1.0: RULES}
    assert rows.keys() == {
        (d, form, rule, t) for d in forms for form in forms[d] for t in rules for rule in rules[t]
    }
    for (drafter, form, rule, temperature), row in rows.items():
        mean, half = row["tokens_per_round"]
        assert 1 <= mean <= 1 + FIXED_DEPTH and half >= 0
        assert (row["over_chain"] is None) == (form == "chain")
        assert (row["over_token"] is None) == (temperature == 0 or rule == "token")
        others = {"over_chain": (drafter, "chain", rule), "over_token": (drafter, form, "token")}
        for name, other in others.items():
            if row[name]:
                expected = mean - rows[*other, temperature]["tokens_per_round"][0]
                assert row[name][0] == pytest.approx(
                    expected, abs=2e-4
                )  # the file holds five digits of each
    heads = [line for line in printed.splitlines() if line.startswith("heads, ")]
    assert len(heads) == len(rounds.FORMS) * len(RULES)
    assert "random T=1" in printed and "saved" in printed


def test_a_single_place_is_refused(run, capsys):
    assert main(["bench", "rounds", str(run), "--places", "1"]) == 2
    assert "places must be at least 2" in capsys.readouterr().err


def test_results_are_saved_before_their_table_is_printed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "table", Mock(side_effect=BrokenPipeError))
    options = dict(temperatures=[0.0], texts=["random"], out=tmp_path, report=lambda line: None)
    with pytest.raises(BrokenPipeError):
        rounds.measure_tokens_per_round(run, places=2, **options)
    assert json.loads((tmp_path / rounds.FILE_NAME).read_text(encoding="utf-8"))["rows"]


def test_the_counted_rounds_are_those_of_the_decoding_loop_without_prefill(run):
    target, drafter = deploy(load(run, "cpu").model)
    prompt = np.array([65, 66, 67])
    options = GenerationOptions(29, SamplingParams(1.0), seed=3, draft_depth=5)
    generation = rounds.start_generation(target, drafter, prompt, options)
    lengths = [len(round_.tokens) for round_ in generation.rounds()]
    assert lengths[0] == 1 and len(lengths) > 1 + rounds.ROUNDS
    expected = np.mean(lengths[1 : 1 + rounds.ROUNDS])
    found = rounds.tokens_per_round(target, drafter, prompt, options)
    assert found == pytest.approx(expected)


def test_a_95_percent_interval_covers_the_true_mean_in_95_percent_of_samples():
    """Tested with 2,000 intervals of 200 normal numbers each: 2 % are 4 standard deviations."""
    samples = np.random.default_rng(0).standard_normal((2000, 200))
    covered = sum(abs(mean) <= half for mean, half in map(rounds.interval, samples))
    assert abs(covered / 2000 - 0.95) < 0.02


def test_only_a_certain_loss_of_a_tree_or_the_block_rule_counts_as_lost():
    row = {"text": "code", "temperature": 1.0, "drafter": "heads"}
    chain = {"form": "chain", "rule": "match", "over_chain": None, "over_token": [-2.0, 0.1]}
    block = {"form": "chain", "rule": "block", "over_chain": None, "over_token": [-0.12, 0.1]}
    tree = {"form": "tree of 7", "rule": "token", "over_chain": [-0.2, 0.1], "over_token": None}
    compared, lost = rounds.lost_comparisons([row | other for other in (chain, block, tree)])
    assert compared == 2
    expected = (
        "fewer tokens than its chain: code at temperature 1, heads, tree of 7, token: -0.20 +- 0.10"
    )
    assert lost == [expected]
