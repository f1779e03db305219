"""`minimtp plan` answers in one table and one sentence, and refuses what cannot be planned."""

import json
import os
from pathlib import Path

import pytest

from minimtp.cli import main, make_parser
from minimtp.plan.costs.sizes import Hardware
from tests.cli.helpers import refused


def plan(capsys, *arguments):
    assert main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def test_the_answer_is_a_table_advice_break_even_points_and_every_assumption(capsys):
    text = plan(capsys, "--model", "70b", "--hardware", "h100", "--requests-per-hour", "5000")
    lines = text.splitlines()
    assert lines[0] == "Llama 3.1 70B on H100 SXM with 80 GB"
    for name in ("standard", "MTP", "QAT int4", "MTP + QAT int4"):
        assert any(line.startswith(f"{name}  ") for line in lines)
    assert "Choose MTP + QAT int4: it costs 25% of standard" in " ".join(lines)
    assert "Break-even points" in text
    for option in ("acceptance", "bandwidth-efficiency", "dollars-per-hour", "prompt-tokens"):
        assert any(line.strip().startswith(option) for line in lines)
    assert max(map(len, lines)) < 130


def test_json_holds_all_of_it(capsys):
    found = json.loads(plan(capsys, "--model", "8b", "--json", "--batch", "1-8"))
    assert [c["name"] for c in found["configurations"]] == [
        "standard", "MTP", "QAT int4", "MTP + QAT int4",
    ]  # fmt: skip
    assert found["advice"] and found["break_even"] and found["speedups"]
    assert found["configurations"][0]["relative_cost"] == 1
    assert found["configurations"][3]["simulated"]["first_token_p95"] > 0
    assert found["assumptions"]["acceptance"] == "0.8"


def test_every_assumption_that_is_printed_is_an_option_or_a_key_of_the_hardware_file(capsys):
    listed = json.loads(plan(capsys, "--json", "--batch", "1"))["assumptions"]
    command = make_parser().parse_args(["plan"]).parser
    for name in listed:
        is_key = name.replace("-", "_") in Hardware.__struct_fields__
        assert f"--{name}" in command.option_names or is_key, name


@pytest.mark.parametrize(
    ("name", "value"),
    [("acceptance", "0.5,0.25"), ("new-tokens", "77"), ("compute-efficiency", "0.25")],
)
def test_an_option_changes_the_assumption_of_its_name(capsys, name, value):
    options = ["--json", "--batch", "1", f"--{name}", value]
    assert str(json.loads(plan(capsys, *options))["assumptions"][name]) == value


@pytest.mark.parametrize(
    ("option", "value", "limit"),
    [
        ("bandwidth-efficiency", "2", "at most 1"),
        ("layer-microseconds", "-1", "at least 0"),
        ("batch", "0", "from 1 to 100,000 or a rising range like 1-256, not 0"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_limit(capsys, option, value, limit):
    sentence = refused(capsys, "plan", f"--{option}", value)
    assert sentence.startswith(f"minimtp: --{option}") and limit in sentence


@pytest.mark.parametrize(
    "line", ["-1 10 10", "1e308 10 10", "nan 10 10", "0 10 10 10", "0 10", "0 0 1"]
)
def test_a_line_of_arrivals_of_another_form_is_refused(capsys, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    Path("arrivals.txt").write_text(f"0 10 10\n{line}\n")
    sentence = refused(capsys, "plan", "--arrivals", "arrivals.txt")
    assert f"arrivals.txt: line 2 is '{line}': write a line per request" in sentence


def test_arrivals_may_begin_with_a_mark_of_their_encoding(capsys, tmp_path):
    path = tmp_path / "arrivals.txt"
    path.write_bytes(b"\xef\xbb\xbf0 10 10\n1, 20, 5\n")
    assert plan(capsys, "--model", "8b", "--batch", "1-8", "--arrivals", str(path))


def test_a_hardware_file_and_a_config_file_are_read_and_results_saved(capsys):
    card = {"memory_gigabytes": 48, "gigabytes_per_second": 900, "teraflops": 150, "title": "mine"}
    Path("card.json").write_text(json.dumps(card))
    Path("config.json").write_text(
        json.dumps(
            {
                "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                "num_attention_heads": 16, "vocab_size": 50_000, "model_type": "llama",
            }
        )
    )  # fmt: skip
    options = ["--model", "config.json", "--hardware", "card.json", "--batch", "1-256"]
    text = plan(capsys, *options, "--out", "plan")
    assert "your model on mine" in text
    assert sorted(os.listdir("plan")) == ["plan.json", "plan.png"]
    assert json.loads(Path("plan/plan.json").read_text())["title"] == "your model on mine"
    assert "your model on mine" in plan(capsys, "--model", ".", *options[2:])


def test_arrivals_from_a_file_are_simulated(capsys):
    Path("day.txt").write_text("# seconds, prompt, new\n0.0, 100, 50\n0.5 200 10\n\n9 100 1\n")
    text = plan(capsys, "--model", "8b", "--arrivals", "day.txt", "--batch", "4")
    assert "simulated" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--requests-per-hour 1e30", "--requests-per-hour must be from 0.001 to 1,000,000,000"),
        ("--requests-per-hour 0", "--requests-per-hour"),
        ("--requests-per-hour -5", "--requests-per-hour"),
        ("--requests-per-hour nan", "not a finite number"),
        ("--prompt-tokens 0", "--prompt-tokens must be from 1"),
        ("--new-tokens 1e12", "--new-tokens must be from 1"),
        ("--batch 0", "--batch must be"),
        ("--batch 8-2", "--batch must be"),
        ("--batch 1-1e9", "--batch must be"),
        ("--batch many", "--batch must be"),
        ("--batch 1-2-3", "--batch must be"),
        ("--acceptance 1.2", "--acceptance must be"),
        ("--acceptance high", "--acceptance must be"),
        ("--acceptance 0.5,", "--acceptance must be"),
        ("--bits 0", "--bits must be from 1 to 32"),
        ("--dollars-per-hour -1", "dollars_per_hour is -1.0, but must be a number of at least 0"),
        ("--compute-efficiency 2", "compute_efficiency is 2.0, but must be a number of at most 1"),
        ("--model 9b", "--model '9b' is neither"),
        ("--model missing.json", "missing.json does not exist"),
        ("--hardware abacus", "--hardware 'abacus' is neither"),
        ("--model 70b --hardware rtx4090 --max-devices 1", "no configuration fits"),
        ("--model 70b --prompt-tokens 10M", "no configuration fits"),
        ("nowhere", "nowhere"),
        ("nowhere --model 8b", "not both"),
        ("--validate poem.txt", "poem.txt"),
        ("--arrivals poem.txt", "poem.txt: line 1"),
        ("--arrivals empty.txt", "empty.txt holds no requests"),
        ("--seed -1", "a seed is a whole number from 0"),
        ("--max-devices 0", "--max-devices must be from 1 to 8"),
        ("--length-spread 1e9", "--length-spread must be from 0 to 10"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(capsys, arguments, words):
    sentence = refused(capsys, "plan", *arguments.split())
    assert words in sentence
    assert len(sentence) <= 320


def test_requests_of_one_token_have_no_time_per_token(capsys):
    Path("day.txt").write_text("0 100 1\n1 100 1\n")
    found = json.loads(plan(capsys, "--arrivals", "day.txt", "--json", "--batch", "1"))
    assert found["configurations"][0]["simulated"]["per_token_p50"] is None
    assert "nan" not in plan(capsys, "--arrivals", "day.txt", "--batch", "1")


def test_a_run_is_measured_with_its_own_costs_and_acceptance(capsys, run):
    found = json.loads(plan(capsys, "run", "--json"))
    assert [c["name"] for c in found["configurations"]] == ["without drafts", "with drafts"]
    assert "measured on this machine" in found["title"]
    assert found["configurations"][0]["batch"] == 1
    assert "bits per weight" in found["assumptions"]["model"]
    assert found["assumptions"].keys().isdisjoint({"acceptance", "teraflops", "bits"})
