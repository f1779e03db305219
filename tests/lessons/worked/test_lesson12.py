"""The numbers of lesson 12's section "By hand", and the details of its second evening."""

import re
from pathlib import Path

import pytest

from lessons.lesson12_worth_it import report
from minimtp.plan.candidates import candidates
from minimtp.plan.cost import Roofline
from minimtp.plan.memory import Drafter
from minimtp.plan.planning import make_plan
from minimtp.plan.settings import Settings
from minimtp.plan.sizes import Hardware, ModelSize, Precision, hardware, model
from minimtp.plan.speculation import Acceptance
from tests.lessons.worked.reading import second_evening

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "lessons" / "lesson12_worth_it" / "README.md").read_text(encoding="utf-8")
BY_HAND = re.search(r"^## By hand$(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)[1]
FLOAT32, INT4 = Precision(32, 32), Precision(4.5, 4.5)
TOKENS = Acceptance((0.8,)).tokens


def assert_shown(*texts):
    """Line ends and runs of spaces do not matter."""
    for text in texts:
        assert " ".join(text.split()) in " ".join(BY_HAND.split()), text


def roofline(precision, int4_gflops=120):
    """A model of 100 million weights, apart from a token table of ten, on the machine by hand."""
    model = ModelSize(
        hidden_size=10, intermediate_size=10, num_hidden_layers=1, num_attention_heads=1,
        vocab_size=10_000_000 - 70, tie_word_embeddings=True,
    )  # fmt: skip
    assert model.parameters == 100_000_000
    machine = Hardware(
        64, 30, 0.12, teraflops_int4=int4_gflops / 1000, bandwidth_efficiency=1.0,
        compute_efficiency=1.0,
    )  # fmt: skip
    return Roofline(model, precision, machine, Drafter(0))


def milliseconds(cost, rows):
    return 1e3 * cost.pass_seconds(1, rows, 0)


def gain(cost, batch, drafts, text=3):
    """Return the speed-up of drafting over not drafting as the text shows it."""
    plain, drafting = (milliseconds(cost, batch * rows) for rows in (1, 1 + drafts))
    return f"{TOKENS(drafts) * plain / drafting:.{text}f}"


def test_the_time_of_a_pass_and_the_balance():
    cost = roofline(FLOAT32)
    one, *more = (f"{milliseconds(cost, rows):.2f} ms" for rows in (1, 4, 8, 16))
    row = f"{milliseconds(cost, 100) / 100:.3f}"
    assert_shown(f"= {one}", f"=  {row} ms · R")
    assert_shown(f"takes {one} and decodes {1e3 / milliseconds(cost, 1):.0f} tokens/s")
    assert_shown("With 4 rows it takes {}, with 8 rows {}, with 16 rows {}.".format(*more))
    assert_shown(f"R*  =  {one.split()[0]} / {row}  =  {cost.balanced_rows:.0f} rows")


def test_drafts_pay_up_to_a_few_requests():
    cost = roofline(FLOAT32)
    assert_shown(f"E(3)  =  1 + 0.8 + 0.64 + 0.512  =  {TOKENS(3):.3f} tokens")
    assert gain(cost, 1, 3) == gain(cost, 2, 3) == f"{TOKENS(3):.3f}"
    assert_shown(
        f"one request would be {gain(cost, 1, 3)} times", f"still {gain(cost, 2, 3)} times"
    )
    assert_shown(f"2.952 / 2 = {gain(cost, 4, 3)}", f"the tokens: {gain(cost, 8, 3)}, a loss")
    assert_shown(
        f"E(1) = {TOKENS(1):.1f} tokens", f"twice the time: {gain(cost, 8, 1, 1)}, a loss too"
    )


def test_int4_and_drafts_spend_the_same_arithmetic():
    slow, fast = roofline(INT4), roofline(INT4, int4_gflops=360)
    reading, row, four = milliseconds(fast, 1), milliseconds(fast, 100) / 100, milliseconds(fast, 4)
    assert_shown(f"Reading takes {100 * 4.5 / 8:.2f} MB / 30 GB/s = {reading:.3f} ms")
    assert_shown(f"would be {slow.balanced_rows:.3f}", f"a row takes {row:.3f} ms")
    assert_shown(f"R* is {fast.balanced_rows:.3f} rows", f"4 · {row:.3f} = {four:.3f} ms")
    assert_shown(f"2.952 · 1.875 / 2.222 = {gain(fast, 1, 3)}")
    start = milliseconds(roofline(FLOAT32), 1)
    assert_shown(f"2.952 · 13.33 ms / 2.222 ms  =  {TOKENS(3) * start / four:.1f}")
    assert_shown(f"2.952 · 13.33 / 1.875 = {TOKENS(3) * start / reading:.1f}")


def test_a_full_card_serves_most_without_drafts():
    cost = roofline(FLOAT32)

    def served(batch, drafts):
        seconds = 1e-3 * milliseconds(cost, batch * (1 + drafts))
        return 1 / (75 * seconds / (TOKENS(drafts) * batch))

    assert_shown(f"B = 1 gives {served(1, 0):.0f} request", f"B = 8 gives {served(8, 0):.0f}.")
    assert_shown(f"B = 2 gives {served(2, 3):.3f}", f"the same {served(8, 3):.3f}")
    assert served(2, 3) > 2 * served(2, 0) and served(8, 0) > served(8, 3)


@pytest.mark.slow
def test_the_details_in_the_text_are_what_the_run_prints(capsys):
    card, settings = hardware("h100"), Settings()
    found = candidates(model("8b"), card, settings)
    report.show_service(make_plan(found, card, settings, with_service=False), card, settings)
    report.show_claims()
    report.show_errors()
    for block in capsys.readouterr().out.strip().split("\n\n"):
        indented = "".join(f"    {line}\n" for line in block.splitlines())
        assert indented in second_evening(12)
