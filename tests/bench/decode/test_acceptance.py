"""bench acceptance: the accepted drafts of a model with heads, by kind of prompt."""

import json

import pytest

from minimtp.bench.decode.acceptance import DEPTH, KINDS, measure_acceptance, table
from minimtp.cli import main
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.errors import UserError
from minimtp.formats.load import load
from minimtp.training.self_generated.requests import Requests

SMALL = {"prompts": 2, "new_tokens": 12, "report": lambda line: None}


def test_every_kind_drafter_and_temperature_is_counted_and_stored(run, tmp_path, capsys):
    out = tmp_path / "acceptance.json"
    arguments = ["--prompts", "2", "--new-tokens", "12", "--out", str(out)]
    assert main(["bench", "acceptance", str(run), *arguments]) == 0
    result = json.loads(out.read_text())
    found = {(row["kind"], row["drafter"], row["temperature"]) for row in result["rows"]}
    assert found == {
        (kind, drafter, temperature)
        for kind in KINDS
        for drafter in ("heads", "lookup", "combined")
        for temperature in (0.0, 1.0)
    }
    for row in result["rows"]:
        assert row["tokens_per_pass"] >= 1.0 and len(row["accepted"]) == DEPTH
        assert all(0.0 <= share <= 1.0 for share in row["accepted"])
    assert table(result).splitlines()[0] in capsys.readouterr().out
    assert table(result, markdown=True).count("\n| draft ") == DEPTH


def test_the_counts_are_those_of_the_decoder_on_the_same_prompts(run):
    rows = measure_acceptance(run, temperatures=[0.0], **SMALL)["rows"]
    loaded = load(run)
    decoder = Decoder(loaded, DraftConfig("heads", length=DEPTH, min_confidence=0.0))
    requests = Requests(loaded.tokenizer, loaded.config.context_length, 0, held_out=True)
    for kind in KINDS:
        emitted = steps = drafted = accepted = 0
        for prompt in requests.prompts(kind, 2):
            generation = decoder.generate(prompt.tolist(), max_new_tokens=12)
            list(generation)
            emitted += generation.statistics.emitted - 1
            steps += generation.statistics.steps
            drafted += generation.statistics.drafted[0]
            accepted += generation.statistics.accepted[0]
        row = next(row for row in rows if (row["kind"], row["drafter"]) == (kind, "heads"))
        assert row["tokens_per_pass"] == pytest.approx(emitted / steps)
        assert row["accepted"][0] == pytest.approx(accepted / drafted)


def test_the_same_measurement_gives_the_same_counts(run):
    assert measure_acceptance(run, **SMALL)["rows"] == measure_acceptance(run, **SMALL)["rows"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("prompts", 0), ("prompts", 10**12), ("prompts", 1.5), ("new_tokens", 0), ("seed", -1)],
)
def test_a_number_that_cannot_be_measured_is_refused_at_once(run, option, value):
    with pytest.raises(UserError, match=f"{option} must be a whole number"):
        measure_acceptance(run, **SMALL | {option: value})


def test_a_model_without_heads_is_refused_with_the_way_to_train_them(tmp_path):
    out = tmp_path / "plain"
    sizes = ["--preset", "tiny", "--tokens", "640", "--evaluation-tokens", "0"]
    assert main(["train", *sizes, "--out", str(out)]) == 0
    with pytest.raises(UserError, match="has no prediction heads: train some"):
        measure_acceptance(out, **SMALL)
