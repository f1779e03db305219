"""Predictions against measurements and publications, and the verdicts on claims."""

import json
import shlex
import statistics
from pathlib import Path

import pytest

from minimtp.cli import main, make_parser
from minimtp.plan.evidence import claims, published, validation
from tests.plan.test_measured import comparison

RESULTS = Path(__file__).resolve().parents[3] / "data" / "results"
FILES = sorted(RESULTS.glob("compare-*.json"))


@pytest.fixture(scope="module")
def judged():
    return claims.judge_all()


def errors(rows, way):
    return [abs(e) for row in rows if (e := row.error(way)) is not None]


def test_a_comparison_with_pass_times_is_predicted_from_its_own_other_numbers(tmp_path):
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(comparison()))
    rows = validation.validate([path])
    assert len(rows) == 8
    assert max(errors(rows, "by_c")) < 0.01  # made by the equation (test_measured.py)


def test_a_prediction_does_not_move_with_the_speed_that_it_predicts(tmp_path):
    """So it can fail: nothing is fitted to it."""
    path, content = tmp_path / "compare.json", comparison()
    path.write_text(json.dumps(content))
    before = {(r.configuration, r.temperature): r.by_c for r in validation.validate([path])}
    for index, configuration in enumerate(content["configurations"]):
        changed = json.loads(json.dumps(content))
        for suffix in ("", "_t1"):
            changed["configurations"][index][f"tokens_per_second{suffix}"] *= 3
        path.write_text(json.dumps(changed))
        for row in validation.validate([path]):
            if row.configuration == configuration["name"]:
                assert row.by_c == before[row.configuration, row.temperature]


def test_the_committed_comparisons_are_predicted_within_the_stated_errors():
    rows = validation.validate(FILES)
    assert len(rows) == 8 * len(FILES)
    by_kernels = errors(rows, "by_kernels")
    assert len(by_kernels) >= 36
    assert statistics.median(by_kernels) <= 0.15
    assert max(by_kernels) <= 0.35
    by_c = errors(rows, "by_c")
    if by_c:
        assert statistics.median(by_c) <= 0.10
        assert max(by_c) <= 0.25


def test_the_share_of_drafts_is_found_from_the_counted_tokens():
    row = validation.read_comparison(RESULTS / "compare-laptop.json").by_name["mtp"]
    shares = validation.drafted_shares(row, 0)
    assert shares[0] == 1 and shares == sorted(shares, reverse=True)
    tokens = 1 + sum(s * a for s, a in zip(shares, row.acceptance, strict=True))
    assert tokens == pytest.approx(row.tokens_per_step, rel=1e-6)


def test_published_numbers_that_set_no_constant_are_predicted_within_the_stated_errors():
    compared = published.compare_with_published()
    tested = [c for c in compared if not c.table.sets]
    assert len(tested) >= 40
    assert statistics.median(abs(c.error) for c in tested) <= 0.15
    for table in published.tables():
        assert table.source
        worst = max(abs(c.error) for c in compared if c.table is table)
        assert worst <= 0.2 or table.why, f"{table.title} is missed by {worst:.0%} without a reason"


def test_the_published_loss_at_many_requests_is_predicted():
    """EAGLE-3 in vLLM loses its gain between 48 and 56 requests, EAGLE-1 in SGLang above 16."""
    predicted = {(c.table.title, c.at): c.predicted for c in published.compare_with_published()}
    falling = [
        v
        for (title, _), v in predicted.items()
        if title.startswith("EAGLE-3, vLLM, Llama 3.1 8B, A100")
    ]
    assert falling == sorted(falling, reverse=True)
    assert predicted["EAGLE-1, SGLang, Llama 3.1 8B, H100, 3 drafts", 64] < 1


def test_every_claim_has_a_verdict_numbers_and_a_command_that_runs(capsys, judged):
    assert len(judged) == 9
    for claim in judged:
        assert claim.verdict in ("holds", "holds if", "does not hold")
        assert (claim.verdict == "holds if") == bool(claim.condition)
        assert claim.numbers
        make_parser().parse_args(shlex.split(claim.command)[1:])
    assert main(shlex.split(judged[4].command)[1:]) == 0
    text = capsys.readouterr().out
    assert "40.7 GB" in text


def test_a_70b_at_four_bits_needs_a_larger_card_than_a_13b_at_sixteen(judged):
    claim = next(c for c in judged if c.claim.startswith("A 70B"))
    assert claim.verdict == "holds if"
    assert claim.condition == "the card has at least 45 GB, where a 13B needs 29 GB"
    assert any(
        "both fit one device: a100, h100, h200; only the 13B: laptop" in n for n in claim.numbers
    )


@pytest.mark.parametrize("option", ["--claims", "--published"])
def test_the_evidence_is_printed_as_text_and_as_json(capsys, option):
    assert main(["plan", option]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 20
    assert main(["plan", option, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_a_comparison_of_ones_own_can_be_validated(capsys):
    assert main(["plan", "--validate", str(RESULTS / "compare-laptop.json")]) == 0
    text = capsys.readouterr().out
    assert "kernels: 6 predictions" in text


def test_the_ways_to_draft_are_predicted_from_pass_times_and_other_texts():
    rows = validation.validate([RESULTS / "bench-decode.json"])
    assert len(rows) >= 100 and all(row.by_c for row in rows)
    assert statistics.median(errors(rows, "by_c")) <= 0.10
    assert max(errors(rows, "by_c")) <= 0.25


def test_the_two_constants_of_small_passes_come_from_the_decoding_and_kernel_benchmarks():
    """c(T) and the cost of a draft in bench-decode.json, less bench-kernels.json."""
    decoding = json.loads((RESULTS / "bench-decode.json").read_text())
    kernels = validation.read_json(
        RESULTS / "bench-kernels.json", validation.Kernels, advice="measure again"
    )
    model = validation.read_comparison(RESULTS / "compare-quick.json")
    passes = decoding["seconds_per_pass"]
    first, eighth = (passes[n - 1] - validation._products(model, kernels, "f32", n) for n in (1, 8))
    assert (eighth / first - 1) / 7 == pytest.approx(validation.REST_GROWTH, abs=0.02)
    drafts = [
        row["drafting_seconds_per_step"] / row["drafted_per_step"]
        for row in decoding["rows"]
        if row["variant"] == "heads, 7 drafts" and row["temperature"] == 0
    ]
    rest = statistics.median(drafts) - validation._draft_products(model, kernels, "f32")
    assert rest / (first / 4) == pytest.approx(validation.REST_OF_A_DRAFT, abs=0.05)
