"""Lesson 12: the numbers of its section "By hand", the details of its second evening, and what its
text says about the run that it shows.
"""

import re
from functools import partial
from pathlib import Path

import pytest

from lessons.lesson12_worth_it import report
from lessons.lesson12_worth_it.recipe import recipe
from minimtp.plan.candidates import candidates
from minimtp.plan.costs.cost import Roofline
from minimtp.plan.costs.memory import Drafter
from minimtp.plan.costs.sizes import Hardware, ModelSize, Precision, hardware, model
from minimtp.plan.costs.speculation import Acceptance, best_round
from minimtp.plan.planning import make_plan
from minimtp.plan.settings import Settings
from tests.lessons.worked.reading import by_hand, printed_table, prose, row, second_evening

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "lessons" / "lesson12_worth_it" / "README.md").read_text(encoding="utf-8")
BY_HAND = re.search(r"^## By hand$(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)[1]
FLOAT32, INT4 = Precision(32, 32), Precision(4.5, 4.5)
TOKENS = Acceptance((0.8,)).tokens


def assert_shown(*texts, section=BY_HAND):
    """Line ends and runs of spaces do not matter."""
    for text in texts:
        assert " ".join(text.split()) in " ".join(section.split()), text


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
    one = f"{milliseconds(cost, 1):.2f} ms"
    each = f"{milliseconds(cost, 100) / 100:.3f}"
    assert_shown(f"= {one}", f"=  {each} ms · R")
    assert_shown(f"takes {one} and decodes {1e3 / milliseconds(cost, 1):.0f} tokens/s")
    assert_shown(f"R*  =  {one.split()[0]} / {each}  =  {cost.balanced_rows:.0f} rows")


def test_drafts_pay_up_to_a_few_requests():
    cost = roofline(FLOAT32)
    assert_shown(f"E(3)  =  1 + 0.8 + 0.64 + 0.512  =  {TOKENS(3):.3f} tokens")
    section, requests = by_hand(12), (1, 2, 4, 8)
    assert row(section, "requests") == list(requests)
    assert row(section, "rows without drafts") == [*requests, round(milliseconds(cost, 1), 2)]
    assert len({milliseconds(cost, rows) for rows in requests}) == 1
    assert row(section, "rows with 3 drafts") == [4 * batch for batch in requests]
    times = [milliseconds(cost, 4 * batch) for batch in requests]
    assert row(section, "time of that pass, ms") == pytest.approx(times, abs=0.005)
    gains = [float(gain(cost, batch, 3)) for batch in requests]
    assert row(section, "speed-up")[:4] == gains and gains[1] > 1 > gains[-1]
    assert_shown(
        f"E(1) = {TOKENS(1):.1f} tokens take twice the time, a speed-up of {gain(cost, 8, 1, 1)}."
    )


def test_int4_and_drafts_spend_the_same_arithmetic():
    shown = partial(assert_shown, section=second_evening(12))
    slow, fast = roofline(INT4), roofline(INT4, int4_gflops=360)
    reading, each, four = (
        milliseconds(fast, 1),
        milliseconds(fast, 100) / 100,
        milliseconds(fast, 4),
    )
    shown(f"reading {100 * 4.5 / 8:.2f} MB / 30 GB/s = {reading:.3f} ms")
    shown(f"so R* = {slow.balanced_rows:.3f} rows", f"{each:.3f} ms, so R*")
    shown(f"R* = {fast.balanced_rows:.3f} rows", f"4 · {each:.3f} = {four:.3f} ms")
    shown(f"2.952 · 1.875 / 2.222 = {gain(fast, 1, 3)}")
    start = milliseconds(roofline(FLOAT32), 1)
    shown(f"2.952 · 13.33 ms / 2.222 ms  =  {TOKENS(3) * start / four:.1f}")
    shown(f"2.952 · 13.33 / 1.875 = {TOKENS(3) * start / reading:.1f}")


def test_a_full_card_serves_most_without_drafts():
    cost = roofline(FLOAT32)

    def served(batch, drafts):
        seconds = 1e-3 * milliseconds(cost, batch * (1 + drafts))
        return 1 / (75 * seconds / (TOKENS(drafts) * batch))

    section = second_evening(12)
    batches = row(section, "requests")
    for label, drafts in (("without drafts", 0), ("with 3 drafts", 3)):
        found = [served(int(batch), drafts) for batch in batches]
        assert row(section, label)[:3] == pytest.approx(found, abs=5e-4)
    assert served(2, 3) > 2 * served(2, 0) and served(8, 0) > served(8, 3)


def test_drafting_takes_time_in_the_plan():
    card, settings = hardware("h100"), Settings()
    mtp = {c.name: c for c in candidates(model("8b"), card, settings)}["MTP"]
    cost, drafts = mtp.cost(1), settings.max_drafts
    tokens = mtp.acceptance.tokens(drafts)
    assert best_round(cost, mtp.acceptance, 1, settings.context).drafts == drafts == 7
    plain, verify = (cost.pass_seconds(1, rows, settings.context) for rows in (1, 1 + drafts))
    drafting = cost.draft_seconds(1, drafts, settings.context)
    assert plain == pytest.approx(verify)
    assert f"`E(7) = {tokens:.2f}` tokens" in prose(12)
    (shown,) = row(TEXT, "a pass")
    assert shown == pytest.approx(1e3 * plain, abs=5e-3)
    host = card.round_milliseconds + card.request_microseconds / 1e3
    assert row(TEXT, "seven drafts") == [round(1e3 * drafting, 2), host]
    gain = tokens * plain / (verify + drafting)
    assert f"{tokens:.2f} · {1e3 * plain:.2f} / ({1e3 * verify:.2f} + {1e3 * drafting:.2f})" in TEXT
    assert f" = {gain:.2f}\n" in TEXT and printed_table(12, CARD)["MTP"][0] == round(gain, 2)
    int4 = {c.name: c for c in candidates(model("8b"), card, settings)}["MTP + QAT int4"].cost(1)
    faster, drafting = (
        int4.pass_seconds(1, 1, settings.context),
        int4.draft_seconds(1, drafts, settings.context),
    )
    gain = tokens * plain / (faster + drafting)
    line = f"({1e3 * faster:.2f} + {1e3 * drafting:.2f}) = {gain:.2f}"
    assert f"{tokens:.2f} · {1e3 * plain:.2f} / {line}" in prose(12)


def test_the_gains_for_64_requests_do_not_multiply():
    table = printed_table(12, "Llama 3.1 8B on one H100")
    drafts, int4, both = (table[name][3] for name in ("MTP", "QAT int4", "MTP + QAT int4"))
    product = f"not `{drafts:.2f} · {int4:.2f} = {drafts * int4:.2f}`"
    assert f"but both together gain {both:.2f} x, {product}" in prose(12)


def test_the_requests_are_as_long_as_the_text_says():
    s = Settings()
    lengths = f"{s.prompt_tokens} tokens of prompt and {s.new_tokens} new tokens each on average"
    assert f"({lengths}, up to {s.max_batch} requests at a time.)" in prose(12)


def test_the_matrix_is_as_large_as_the_text_says():
    outputs, inputs = 64 * recipe.hidden_size, 32 * recipe.hidden_size
    assert f"a matrix of {outputs} x {inputs} weights" in prose(12)


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


CORE = "one core of this machine"
PASSES = "lesson 5, from measured passes"
PRODUCTS = "time of a product with T rows"
CARD, HERE = "Llama 3.1 8B on one H100 ", "SmolLM2-135M on one core here"


def of_the_core(number):
    """Return the bandwidth (0), the peak (1) or the balance (2) with float32 and with int4."""
    return [numbers[number] for numbers in printed_table(12, CORE).values()]


def longest_over_predicted(columns):
    """Return the largest ratio of a measured time and the predicted one."""
    times = list(printed_table(12, PRODUCTS).values())
    return max(
        measured[i] / predicted[i]
        for predicted, measured in (times[:2], times[2:])
        for i in columns
    )


STATEMENTS = {  # sentences of the text, and whether they hold for the run that it shows
    "(The int4 matrix fits a cache, so it is read faster.)": lambda: (
        of_the_core(0)[1] > of_the_core(0)[0]
    ),
    "So there, predicted and measured agree by definition": lambda: (
        longest_over_predicted([5]) == 1
    ),
    "a product takes longer than predicted": lambda: longest_over_predicted(range(5)) > 1.05,
    "Why are the dotted lines of the right plot at four and five requests,": lambda: all(
        bits / 16 * peak / of_the_core(0)[0] == pytest.approx(place, abs=0.5)
        for bits, peak, place in zip((16, 4.5), of_the_core(1), (4, 5), strict=True)
    ),
    "if the balances above are 8.7 and 4.1 rows?": lambda: of_the_core(2) == [8.7, 4.1],
    "Why does int4 bring 2.60 x to SmolLM2 here": lambda: (
        printed_table(12, HERE)["QAT int4"][0] == 2.60
    ),
    "From eight requests on, drafts gain nothing": lambda: (
        [gain > 1.05 for gain in printed_table(12, PASSES)["drafts over no drafts"]]
        == [True, True, True, False, False]
    ),
    "it gives `4.88 / 2.60 = 1.88` from drafts with int4. Lesson 11 measured `1.07` to `2.00`.": (
        lambda: (
            round(printed_table(12, HERE)["MTP + QAT int4"][0] / 2.60, 2) == 1.88
            and [
                end(printed_table(11, "speed-up by drafts alone")["MTP + QAT int4"])
                for end in (min, max)
            ]
            == [1.07, 2.00]
        )
    ),
    "Here, too, gains do not multiply": lambda: (
        printed_table(12, HERE)["MTP + QAT int4"][0]
        < printed_table(12, HERE)["MTP"][0] * printed_table(12, HERE)["QAT int4"][0]
    ),
    "On one core, the balance is at a handful of rows": lambda: max(of_the_core(2)) < 16,
    "four requests at a time leave drafts nothing to gain with 16-bit weights": lambda: (
        printed_table(12, HERE)["MTP"][1] < 1.05
    ),
    "(On one core, drafts still help int4 a little.": lambda: (
        printed_table(12, HERE)["MTP + QAT int4"][-1] > printed_table(12, HERE)["QAT int4"][-1]
    ),
    "Why does int4 gain nothing on a full card, but something on a full core?": lambda: (
        printed_table(12, CARD)["QAT int4"][-1] == 1 and printed_table(12, HERE)["QAT int4"][-1] > 1
    ),
    "and its peak is higher: compare the two in the output": lambda: (
        of_the_core(1)[1] > of_the_core(1)[0]
    ),
}


@pytest.mark.parametrize("sentence", STATEMENTS)
def test_what_the_text_says_about_its_run_holds(sentence):
    assert sentence in prose(12), "the text does not say this any more"
    assert STATEMENTS[sentence](), "run again, this does not hold: change the text"


def test_the_requests_per_hour_in_the_text_are_those_of_the_run():
    requests = printed_table(12, "requests per hour that one H100 serves")
    before, product, after = (numbers[-1] for numbers in requests.values())
    one = printed_table(12, CARD)["MTP + QAT int4"][0]
    assert product / before == pytest.approx(one, rel=2e-3)
    for number in (before, product, after):
        assert f"{number:,.0f}" in TEXT.partition("## The idea")[0]
    assert after / before - 1 == pytest.approx(0.005, abs=0.001)  # "half a per cent more"


def test_where_drafts_stop_to_pay_is_what_the_run_prints():
    ends = re.findall(r"at least 5 % faster than .* up to (\d+) at a time", TEXT)
    pattern = "up to {} requests at a time with 16-bit weights, and up to {} with int4"
    assert pattern.format(*ends) in prose(12)
