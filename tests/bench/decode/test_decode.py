"""The measurement of drafting: every way and rule has its row, what it predicts is its own formula,
and what loses is said."""

import importlib.util
import itertools
import json
import re
import shutil
from dataclasses import replace
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.bench.baselines.pytorch.decoding import TorchDecoder
from minimtp.bench.decode import report as decode_report
from minimtp.bench.decode import speed as decode
from minimtp.bench.decode import tokens_per_round as decode_rounds
from minimtp.bench.decode import weight_formats as formats
from minimtp.bench.interleaved import Speed
from minimtp.cli import main
from minimtp.decode.decoder import deploy
from minimtp.decode.rules.verify import RULES
from minimtp.decode.runtime import ModelRunner
from minimtp.decode.sampling import SamplingParams
from minimtp.errors import UserError
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.quantize import quantize

SMALL = ["--prompts", "2", "--prompt", "6", "--max-new-tokens", "6", "--repeats", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    (folder / "poem.txt").write_bytes(
        b"roses are red, violets are blue, sugar is sweet and so are you.\n" * 60
    )
    small = [
        "--preset",
        "tiny",
        "--context-length",
        "32",
        "--tokens",
        "640",
        "--evaluation-tokens",
        "256",
    ]
    model = [
        "--heads",
        "token_conditioned",
        "--corpus",
        str(folder / "poem.txt"),
        "--out",
        str(folder / "run"),
    ]
    assert main(["train", *small, *model]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("measured") / "new"
    assert main(["bench", "decode", str(run), *SMALL, "--small", str(run), "--out", str(out)]) == 0
    return out, json.loads((out / "bench-decode.json").read_text(encoding="utf-8"))


def test_every_way_has_a_row_with_every_rule_on_every_text_at_every_temperature(measured):
    out, result = measured
    rows = {
        (row["text"], row["temperature"], row["way"], row["rule"]): row for row in result["rows"]
    }
    ways = dict.fromkeys(row["way"] for row in result["rows"])
    assert next(iter(ways)) == "plain"
    assert {way.partition(",")[0] for way in ways} == {"plain", "heads", "n-gram", "another run"}
    heads = ("7 at a time", "while likely", "tree of 7", "adaptive", "trees, adaptive")
    assert {f"heads, {way}" for way in heads} <= ways.keys()
    rules = {0.0: RULES[:1], 0.7: RULES, 1.0: RULES}
    texts = [text for text in decode.TEXTS if text not in result["missing"]]
    expected = {
        (text, t, way, rule)
        for text, t, way in itertools.product(texts, rules, ways)
        for rule in rules[t]
    }
    assert rows.keys() == expected
    assert len(result["rows"]) == len(rows)
    for (_, _, way, rule), row in rows.items():
        assert row["slowest"] <= row["tokens_per_second"] <= row["fastest"]
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        assert (
            1 <= row["tokens_per_step"] <= 1 + row["drafted_per_step"] + 1e-4
        )  # the file has five digits of each
        if way == "plain":
            assert row["drafted_per_step"] == 0 and row["acceptance"] == []
            assert row["speedup"] == 1 or rule != RULES[0]
    assert {
        "machine",
        "versions",
        "recipe",
        "sizes",
        "seconds_of_a_pass",
        "kernels",
        "seed",
    } <= result.keys()
    assert (out / "bench-decode.png").exists() == (
        importlib.util.find_spec("matplotlib") is not None
    )


def test_with_the_default_rule_every_drafter_writes_the_text_of_plain_decoding(measured):
    for row in measured[1]["rows"]:
        if row["rule"] == RULES[0]:
            assert row["same_texts"] == row["texts"] == 2, row


def test_the_prediction_is_tokens_a_step_over_what_a_step_costs():
    speed = Speed(
        0, 0, 0, 2.5, [], [], [], steps=4, passes_of_length=[0, 1, 0, 3], drafting_seconds_per_step=0.5
    )
    assert decode.predicted_speedup(speed, [2.0, 2.5, 3.0]) == pytest.approx(
        2.5 * 2.0 / ((2.0 + 3 * 3.0) / 4 + 0.5)
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 5))
def test_what_is_said_again_counts_as_repeated(period, times):
    text = period * (times + decode.STRETCH)
    again = len(text) - decode.STRETCH - len(period)
    assert decode.repeated_share(text) >= again / (len(text) - decode.STRETCH)
    assert decode.repeated_share(range(100)) == 0.0
    assert decode.repeated_share(text[: decode.STRETCH]) == 0.0


def test_a_text_that_is_not_installed_is_left_out_and_said_to_be(run, monkeypatch, capsys):
    def missing(sources, tokenizer):
        raise UserError("the corpus shakespeare is not installed")

    monkeypatch.setattr(decode, "open_corpus", missing)
    assert main(["bench", "decode", str(run), *SMALL, "--temperatures", "0"]) == 0
    said = capsys.readouterr().out
    assert "prose is left out: the corpus shakespeare is not installed" in said
    assert "random T=0" in said and "prose T=0" not in said
    assert main(["bench", "decode", str(run), *SMALL, "--texts", "prose"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompts", "0"], "prompts must be at least 1"),
        (["--max-new-tokens", "1M"], "max new tokens must be at least 1 and at most"),
        (["--temperatures", "-1"], "temperature must be 0"),
        (["--texts", "poetry"], "--texts must be one of"),
        (["--small", "nowhere"], "nowhere"),
        (["--out", "file"], "cannot be made"),
    ],
    ids=str,
)
def test_a_measurement_that_cannot_be_made_is_refused_before_it_begins(
    run, arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        decode, "measure_interleaved", lambda *arguments, **options: pytest.fail("began")
    )
    assert main(["bench", "decode", str(run), *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err


def test_a_small_model_with_other_tokens_is_refused(run, tmp_path, monkeypatch):
    other = shutil.copytree(run, tmp_path / "other")
    original, small = decode.load, decode.load(other)
    small.tokenizer.to_dict = lambda: {"kind": "other"}
    monkeypatch.setattr(
        decode,
        "load",
        lambda folder, device: small if folder == other else original(folder, device),
    )
    with pytest.raises(UserError, match="another tokenizer"):
        decode.measure_decoding(run, small=other, report=lambda line: None)


def test_the_same_weights_are_measured_in_every_form_beside_pytorch_or_the_reason_why_not(
    measured, run, monkeypatch
):
    found = measured[1]["formats"]
    forms = ["fp32", "fp32 + heads", "int8", "int8 + heads", "int4", "int4 + heads"]
    torch, llama = (importlib.util.find_spec(name) is not None for name in ("torch", "llama_cpp"))
    names = (
        forms
        + ["PyTorch fp32"] * torch
        + ["llama.cpp fp32", "llama.cpp int8", "llama.cpp int4"] * llama
    )
    assert {(row["name"], row["temperature"]) for row in found["rows"]} == set(
        itertools.product(names, [0.0, 0.7, 1.0])
    )
    sizes = {row["name"]: row["weight_bytes"] for row in found["rows"]}
    assert sizes["fp32"] == sizes["fp32 + heads"] > sizes["int8"] > sizes["int4"]
    assert set(found["missing"]) == {
        name for name, found in (("llama.cpp", llama), ("PyTorch", torch)) if not found
    }
    versions = measured[1]["versions"]
    assert ("torch" in versions, "llama_cpp" in versions, measured[1]["decode_threads"]) == (
        torch,
        llama,
        1,
    )
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    loaded = decode.load(run)
    assert "not installed" in formats.in_torch(loaded, "cpu")[1]["PyTorch"]
    assert "not installed" in formats.in_llama({}, "cpu")[1]["llama.cpp"]
    assert "CPU only" in formats.in_llama({}, "cuda")[1]["llama.cpp"]


def test_on_a_gpu_half_precision_is_what_the_other_forms_are_held_against(run):
    assert [*formats.models(decode.load(run), "cuda")] == ["fp16", "fp32", "int8", "int4"]


def test_a_peer_that_cannot_decode_the_model_is_missing_with_the_reason(run, monkeypatch):
    def cannot(model):
        raise UserError("this grid is no type of ggml")

    monkeypatch.setattr(formats, "find_spec", lambda name: name == "llama_cpp")
    monkeypatch.setattr(formats.LlamaDecoder, "of", cannot)
    found, missing = formats.in_llama(formats.models(decode.load(run), "cpu"), "cpu")
    assert found == []
    assert missing["llama.cpp"] == "cannot be measured: this grid is no type of ggml"


def test_a_packed_model_is_measured_as_it_is(run, tmp_path):
    packed = quantize(run, tmp_path / "packed")
    ((name, model),) = formats.models(packed, "cpu").items()
    form = formats.deployed(name, model)
    assert [*formats.variants([form])] == ["packed", "packed + heads"]
    assert 4 < form.bits < 9 and form.bytes_of_a_pass < form.bytes
    assert "full precision only" in formats.in_torch(packed, "cpu")[1]["PyTorch"]


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch (torch) is not installed"
)
@pytest.mark.parametrize("changes", [{}, {"tied_embeddings": False}, {"num_kv_heads": 2}], ids=str)
def test_pytorch_decodes_the_same_model_with_its_cache(changes):
    """1e-4: logits of a few units, float32 sums of some hundred products in another order."""
    recipe = replace(preset("tiny"), **changes)
    rng = np.random.default_rng(1)
    model = build_model(recipe, rng)
    for (
        parameter
    ) in model.parameters():  # products that start at zero would hide what comes before them
        parameter.data = parameter.data + 0.05 * rng.standard_normal(
            parameter.data.shape, np.float32
        )
    ours, theirs = ModelRunner(model.trunk), TorchDecoder(model.trunk)
    for rows, keep in (
        (5, 5),
        (1, 6),
        (8, 9),
        (1, 10),
        (3, 13),
    ):  # a prompt, a token, a draft of which some is taken back
        tokens = rng.integers(0, recipe.vocabulary_size, rows)
        np.testing.assert_allclose(
            theirs.forward(tokens).logits, ours.forward(tokens).logits, rtol=1e-4, atol=1e-4
        )
        for target in (ours, theirs):
            target.truncate(keep)
            assert target.length == keep


def row(way, rule, speedup, temperature=1.0):
    return {
        "text": "code", "temperature": temperature, "way": way, "rule": rule, "tokens_per_second": 1234.5, "speedup": speedup,
        "speedup_low": speedup - 0.1, "speedup_high": speedup + 0.1, "predicted_speedup": 1.5, "tokens_per_step": 2.25,
    }  # fmt: skip


def test_what_loses_is_said_the_worst_first_and_stands_bold_in_the_readme():
    rows = [
        row("plain", "shared-noise", 1.0),
        row("plain", "token", 0.8),
        row("heads", "token", 0.9),
    ]
    rows += [row("heads", "block", 1.2), row("n-gram", "token", 0.5)]
    result = {"rows": rows}
    assert [lost["way"] for lost in decode_report.losses(rows)] == [
        "n-gram",
        "heads",
    ]  # drafting, not plain decoding
    text, markdown = decode_report.table(result), decode_report.table(result, markdown=True)
    said = [line for line in text.splitlines() if line.startswith("loses")]
    assert (
        re.match(r"loses: code at temperature 1, n-gram, token: 0.50x \(0.40 to 0.60\)", said[0])
        and len(said) == 2
    )
    assert "| plain, shared-noise, tokens/s | 1,234 |" in markdown
    assert "| heads, token | **0.90x** (2.2) |" in markdown
    assert "| heads, block | 1.20x (2.2) |" in markdown
    assert "no way of drafting was slower" in decode_report.table({"rows": [rows[0], rows[3]]})


def test_many_losing_cases_are_counted_instead_of_told():
    rows = [
        row("plain", "token", 1.0),
        *(row(f"way {i}", "token", 0.5) for i in range(decode_report.SAID + 3)),
    ]
    assert "and 3 more" in decode_report.table({"rows": rows})


def test_a_round_of_every_rule_with_chains_and_trees_is_counted_from_the_same_places(
    run, tmp_path, capsys
):
    arguments = [
        "bench",
        "rounds",
        str(run),
        "--places",
        "3",
        "--small",
        str(run),
        "--temperatures",
        "0",
        "1",
    ]
    assert main([*arguments, "--texts", "random", "--out", str(tmp_path)]) == 0
    said, result = (
        capsys.readouterr().out,
        json.loads((tmp_path / "bench-rounds.json").read_text(encoding="utf-8")),
    )
    rows = {
        (row["drafter"], row["form"], row["rule"], row["temperature"]): row
        for row in result["rows"]
    }
    forms = {"heads": list(decode_rounds.FORMS), "n-gram": ["chain"], "another run": ["chain"]}
    rules = {0.0: RULES[:1], 1.0: RULES}
    assert rows.keys() == {
        (d, form, rule, t) for d in forms for form in forms[d] for t in rules for rule in rules[t]
    }
    for (drafter, form, rule, temperature), row in rows.items():
        mean, half = row["tokens_per_round"]
        assert 1 <= mean <= 1 + decode.FIXED_DEPTH and half >= 0
        assert (row["over_chain"] is None) == (form == "chain")
        assert (row["over_token"] is None) == (temperature == 0 or rule == "token")
        for name, other in (
            ("over_chain", (drafter, "chain", rule)),
            ("over_token", (drafter, form, "token")),
        ):
            if row[name]:  # the file has five digits of each
                assert row[name][0] == pytest.approx(
                    mean - rows[*other, temperature]["tokens_per_round"][0], abs=2e-4
                )
    heads = [line for line in said.splitlines() if line.startswith("heads, ")]
    assert len(heads) == len(decode_rounds.FORMS) * len(RULES)
    assert "random T=1" in said and "saved" in said
    assert main([*arguments, "--places", "1"]) == 2
    assert "places must be at least 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "measure", "sizes"),
    [
        (decode, decode.measure_decoding, {"sizes": decode.Sizes(1, 6, 6, 1)}),
        (decode_rounds, decode_rounds.measure_tokens_per_round, {"places": 2}),
    ],
    ids=["decode", "rounds"],
)
def test_results_are_saved_before_their_table_is_printed(
    run, tmp_path, monkeypatch, module, measure, sizes
):
    monkeypatch.setattr(module, "table", Mock(side_effect=BrokenPipeError))
    options = {
        "temperatures": [0.0],
        "texts": ["random"],
        "out": tmp_path,
        "report": lambda line: None,
    }
    with pytest.raises(BrokenPipeError):
        measure(run, **options, **sizes)
    assert json.loads((tmp_path / module.FILE_NAME).read_text(encoding="utf-8"))["rows"]


def test_rounds_behind_a_place_are_those_of_the_loop_without_the_prompts_own(run):
    target, drafter = deploy(decode.load(run, "cpu").model)
    prompt, options = (
        np.array([65, 66, 67]),
        dict(max_new_tokens=29, sampling=SamplingParams(1.0), seed=3, draft_depth=5),
    )
    generation = decode_rounds.generate(target, drafter, prompt, **options)
    lengths = [len(round_.tokens) for round_ in generation.rounds()]
    assert lengths[0] == 1 and len(lengths) > 1 + decode_rounds.ROUNDS
    expected = lengths[1 : 1 + decode_rounds.ROUNDS]
    assert decode_rounds.tokens_per_round(target, drafter, prompt, **options) == pytest.approx(
        sum(expected) / len(expected)
    )


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says():
    """Of 2,000 intervals about 200 normal numbers each 95 % should; 2 % are 4 standard deviations
    of that share."""
    found = [
        decode_rounds.interval(sample)
        for sample in np.random.default_rng(0).standard_normal((2000, 200))
    ]
    assert abs(sum(abs(mean) <= half for mean, half in found) / 2000 - 0.95) < 0.02


def test_only_what_is_surely_less_counts_as_behind_and_only_trees_and_the_block_rule_are_asked():
    row = {"text": "code", "temperature": 1.0, "drafter": "heads"}
    chain = row | {"form": "chain", "rule": "match", "over_chain": None, "over_token": [-2.0, 0.1]}
    block = row | {"form": "chain", "rule": "block", "over_chain": None, "over_token": [-0.12, 0.1]}
    tree = row | {
        "form": "tree of 7",
        "rule": "token",
        "over_chain": [-0.2, 0.1],
        "over_token": None,
    }
    compared, lost = decode_rounds.behind([chain, block, tree])
    assert compared == 2
    assert lost == [
        "behind its chain: code at temperature 1, heads, tree of 7, token: -0.20 +- 0.10"
    ]
