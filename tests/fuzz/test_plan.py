"""Mutants of the files that `minimtp plan` reads, and absurd values of its options."""

import json
import random
from pathlib import Path

import pytest

from minimtp.cli import main, make_parser
from minimtp.plan.arrivals import read_arrivals
from minimtp.plan.candidates import candidates
from minimtp.plan.costs.sizes import hardware, model
from minimtp.plan.evidence.compared import in_words
from minimtp.plan.evidence.validation import validate
from minimtp.plan.measured import from_comparison
from minimtp.plan.planning import make_plan
from minimtp.plan.report import advise, as_json
from minimtp.plan.settings import Settings
from tests.fuzz.mutate import (
    check_sentence,
    damaged_bytes,
    damaged_json,
    json_bytes,
    must_be_refused_or_right,
    time_limit,
)
from tests.fuzz.test_options import VALUES, options_of
from tests.plan.test_measured import comparison

pytestmark = pytest.mark.slow

COUNT = 600
CARD = {
    "memory_gigabytes": 80, "gigabytes_per_second": 2000.0, "teraflops": 300,
    "teraflops_int4": 400, "bandwidth_efficiency": 0.7, "compute_efficiency": 0.5,
    "layer_microseconds": 5, "cache_megabytes": 30, "cache_gigabytes_per_second": 5000,
    "dollars_per_hour": 1.5, "title": "a card",
}  # fmt: skip
CONFIG = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 32000,
    "tie_word_embeddings": True, "model_type": "llama", "rope_scaling": {"factor": 8.0},
}  # fmt: skip
QUICK = Settings(max_batch=2, swept_to=2, max_devices=1)


def mutants(value, seed):
    """Yield COUNT mutants: half of the values, half of the bytes."""
    rng, data = random.Random(seed), json_bytes(value)
    for number in range(COUNT):
        yield json_bytes(damaged_json(value, rng)) if number % 2 else damaged_bytes(data, rng)


def is_a_plan(plan):
    """A plan whose numbers can be printed: no NaN, and JSON."""
    text = json.dumps(as_json(plan, "", {}))
    return advise(plan).endswith(".") and "NaN" not in text


def planned(size, card):
    return make_plan(candidates(size, card, QUICK), card, QUICK, with_service=False)


@pytest.mark.parametrize("kind", ["hardware", "config"])
def test_a_damaged_hardware_or_config_file_is_planned_or_refused(tmp_path, kind):
    path = tmp_path / f"{kind}.json"

    def read():
        if kind == "hardware":
            return planned(model("1b"), hardware(str(path)))
        return planned(model(str(path)), hardware("h100"))

    refused = 0
    for content in mutants(CARD if kind == "hardware" else CONFIG, 1):
        path.write_bytes(content)
        refused += refused_or_right(read, path)
    assert COUNT / 4 < refused < COUNT


def refused_or_right(read, path):
    """Like must_be_refused_or_right; a model that fits nowhere is refused without the file."""
    try:
        return must_be_refused_or_right(read, is_a_plan, names=path)
    except AssertionError as error:
        assert "no configuration fits" in str(error), error
        return True


def test_a_damaged_comparison_is_planned_and_validated_or_refused(tmp_path):
    path = tmp_path / "compare.json"

    def read():
        found, machine, _, lengths = from_comparison(path)
        settings = Settings(max_batch=2, swept_to=2, max_devices=1, **lengths)
        return make_plan(found, machine, settings, with_service=False)

    for content in mutants(comparison(), 2):
        path.write_bytes(content)
        refused_or_right(read, path)
        must_be_refused_or_right(lambda: in_words(validate([path])), names=path)


def test_a_damaged_list_of_arrivals_is_read_or_refused(tmp_path):
    path, rng = tmp_path / "arrivals.txt", random.Random(3)
    good = "".join(f"{n / 7:.3f}, {50 + n}, {n % 9 + 1}\n" for n in range(30)).encode()
    for _ in range(COUNT):
        path.write_bytes(damaged_bytes(good, rng))
        must_be_refused_or_right(lambda: read_arrivals(str(path)), names=path)


def test_no_absurd_value_of_an_option_of_plan_ends_with_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tried = 0
    for command, name in options_of(make_parser()):
        if command != ("plan",) or name == "--out":
            continue
        for value in VALUES:
            tried += 1
            with time_limit(30):
                code = main(["plan", "--model", "1b", "--batch", "1", f"{name}={value}"])
            said = capsys.readouterr().err.strip().splitlines()
            assert code in (0, 2), (name, value, said)
            if code == 2:
                check_sentence(said[-1].removeprefix("minimtp: "), "")
    assert tried > 600
    assert not list(Path().iterdir())
