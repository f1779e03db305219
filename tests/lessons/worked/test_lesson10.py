"""Lesson 10: its worked examples, and what its text says about the run that it shows."""

import json
import math
import re

import pytest

from lessons.lesson10_together import report
from minimtp.bench.interleaved import Speed
from minimtp.decode.policy.estimates import survival
from tests.lessons.helpers import ROOT, text
from tests.lessons.worked.reading import by_hand, output, printed_table, prose, row, second_evening

MANY = 1e9  # repeats of the rounds: the guess of `survival` then counts for nothing
TOKENS = 100  # of a run in the example
QUALITY = f"{'':<24}bits per byte"  # the heading of the table
MTP, BOTH, RTN, GPTQ = "MTP", "MTP + QAT int4", "MTP, int4 by rounding", "MTP, int4 by GPTQ"
MTP_PLAIN, BOTH_PLAIN = f"{MTP}, no drafts", f"{BOTH}, no drafts"
COMPARED = 4  # configurations whose greedy texts are compared with plain decoding


def speed(rates):
    return Speed(0, 0, 0, 1, [], [rates], [])


def test_the_two_statistics_of_three_pairs_of_runs():
    section = by_hand(10)
    a, b = row(section, "A")[:4], row(section, "B")[:4]
    median = speed(a[:3]).speedup_over(speed(b[:3]))
    assert f"the median is {median:g}" in section
    for rates, label in ((a, "A"), (b, "B")):
        seconds = [TOKENS / rate for rate in rates[:3]]
        assert rates[3] == 3 * TOKENS / sum(seconds)
        shown = " + ".join(f"{s:g}" for s in seconds)
        assert re.search(
            rf"^    {label} .*{3 * TOKENS} tokens in {re.escape(shown)} s", section, re.M
        )
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    assert row(section, "A / B")[:4] == pytest.approx(ratios)
    assert f"The ratio of speeds is {ratios[3]}" in section


def test_the_bytes_of_the_int4_model_are_those_of_the_run():
    section, quality = (second_evening(10), printed_table(10, QUALITY))
    table, norms, total, standard = 257 * 128, 1_280, 542_080, 476_160
    size = (total - table - norms) * 4.5 / 8 + table * 8.5 / 8 + norms * 4
    assert f"{total - table - norms:,} · 4.5/8 + {table:,} · 8.5/8 + {norms:,} · 4" in section
    assert f"{size:,.0f} bytes  =  {8 * size / total:.2f} bits per weight" in section
    for name in (BOTH, RTN, GPTQ):
        assert quality[name][2:4] == [size, round(8 * size / total, 2)]
    assert quality["standard"][2] == 4 * standard and quality[MTP][2] == 4 * total
    assert f"2 · {standard:,} / {size:,.0f} = {2 * standard / size:.2f} times" in section


def test_rounds_that_asked_for_one_draft_do_not_lower_the_share_of_the_second():
    ended = [MANY * n for n in (2 + 1, 6 + 1, 2)]
    censored = [0, MANY * 6, MANY * 2]
    first, second = survival(ended, censored, 2, 0.5)
    section = second_evening(10)
    assert row(section, "reach 1") == pytest.approx([6, 2, 1, 9, 12, first])
    assert math.isclose(second / first, 2 / 3, rel_tol=1e-6) and "2/3\n" in section
    assert f"0.75 · 2/3 = {second:.1f}" in section
    assert row(section, "wrong") == pytest.approx([2, 12, 2 / 12], abs=0.005)


def speeds(temperature):
    """Return {configuration: [speed, ratio of speeds, median of ratios, tokens per pass]}."""
    return printed_table(10, f"temperature {temperature} ")


@pytest.mark.parametrize("temperature", [0, 1])
def test_the_ratio_of_speeds_is_that_of_the_printed_speeds(temperature):
    rows = speeds(temperature)
    assert list(rows) == ["standard", MTP_PLAIN, MTP, BOTH_PLAIN, BOTH, RTN]
    for tokens_per_second, ratio, *_ in rows.values():
        assert ratio == pytest.approx(tokens_per_second / rows["standard"][0], abs=0.006)


def test_the_headline_and_the_careful_numbers_in_the_text_are_those_of_the_run():
    lines = printed_table(10, "MTP + QAT int4: the headline")
    fast, careful, at_1, small, half, quality, gptq = (n for *_, n in lines.values())
    section = re.search(r"^## The wrong way first$(.*?)^## ", text(10), re.M | re.S)[1]
    numbers = re.findall(r"\d+\.\d\d", section)
    found = [fast, small, quality, careful, at_1, half, gptq]
    assert numbers == [f"{number:.2f}" for number in found]
    assert careful == speeds(0)[BOTH][1] and at_1 == speeds(1)[BOTH][1]
    table = printed_table(10, QUALITY)
    assert [quality, gptq] == [table[name][1] for name in (BOTH, GPTQ)]


def test_claims_are_judged_by_the_median_of_ratios():
    for temperature in (0, 1):
        for name in (MTP, BOTH):
            median = speeds(temperature)[name][2]
            claim = f"the speed-up of {name} at temperature {temperature} is {median:.2f}x"
            assert claim in output(10)


def test_the_result_is_the_speed_at_temperature_0():
    before, now = (speeds(0)[name][0] for name in ("standard", BOTH))
    assert f"*Result:* from {before:,.0f} to {now:,.0f} tokens/s at temperature 0" in prose(10)
    for value in (before, now):
        assert len(re.findall(rf" {value:,.0f} tokens/s", output(10))) == 2


def test_the_comparisons_that_could_fail_are_those_of_drafted_texts():
    (equal, texts) = map(int, re.search(r"(\d+) of (\d+) texts equal", output(10)).groups())
    own = texts // COMPARED
    assert equal == texts
    shown = f"Of the {texts} texts, the {own} of `standard` are plain decoding themselves"
    assert f"{shown}, so {texts - own} comparisons could fail" in prose(10)


def test_the_loss_that_a_verdict_compares_with_is_our_own():
    lost = f"{100 - quality(BOTH):.2f} %"
    assert f"claimed more than the {lost} lost with QAT" in output(10)
    assert f"The {lost} are our own measurement" in prose(10)


PARTS = {  # what a part brings: the speed with it, and the speed without it
    "int4, without drafts": (BOTH_PLAIN, MTP_PLAIN),
    "drafts, with float32": (MTP, MTP_PLAIN),
    "drafts, with int4": (BOTH, BOTH_PLAIN),
}


def gain(part, temperature):
    one, other = (speeds(temperature)[name][0] for name in PARTS[part])
    return one / other


@pytest.mark.parametrize("part", PARTS)
def test_what_a_part_brings_is_a_ratio_of_printed_speeds(part):
    shown = re.search(rf"^ {{6}}{part} +(.*)$", text(10), re.M)[1]
    for temperature, cell in zip((0, 1), re.split(r" {3,}", shown), strict=True):
        one, other = (speeds(temperature)[name][0] for name in PARTS[part])
        assert " ".join(cell.split()) == f"{one:,.0f} / {other:,.0f} = {one / other:.2f}"


def test_the_speedups_of_int4_and_of_drafts_do_not_multiply():
    section = second_evening(10)
    int4, drafts = (round(gain(part, 0), 2) for part in list(PARTS)[:2])
    both, neither = (speeds(0)[name][0] for name in (BOTH, MTP_PLAIN))
    assert f" {int4:.2f} · {drafts:.2f}  =  {int4 * drafts:.2f}\n" in section
    assert f" {both:,.0f} / {neither:,.0f}  =  {both / neither:.2f}\n" in section
    assert both / neither < int4 * drafts


@pytest.mark.parametrize("suffix", ["", "_t1"])
def test_results_that_do_not_hold_the_speedups_without_drafts_are_shown_without_these_rows(
    suffix, capsys
):
    """As in the files of earlier comparisons."""
    stored = json.loads((ROOT / "data/results/compare-quick.json").read_text(encoding="utf-8"))
    name = f"speedup_without_drafts{suffix}"
    earlier = [{key: c[key] for key in c if key != name} for c in stored["configurations"]]
    now = [c | ({name: 0.5} if "mtp" == c["name"] else {}) for c in earlier]
    shown = []
    for found in (earlier, now):
        report.show_speeds(found, "a title", suffix)
        shown.append(capsys.readouterr().out.splitlines())
    assert len(shown[0]) == 2 + len(earlier) + (not suffix)
    (more,) = [line for line in shown[1] if line not in shown[0]]
    assert more.startswith("  MTP, no drafts ") and len(shown[1]) == len(shown[0]) + 1


def differences_of_equal_work():
    return [abs(ratio - 1) for t in (0, 1) for ratio in speeds(t)[MTP_PLAIN][1:3]]


def quality(name):
    return printed_table(10, QUALITY)[name][1]


STATEMENTS = {  # sentences of the text, and whether they hold for the run that it shows
    "Int4 helps at both temperatures": lambda: (
        min(gain("int4, without drafts", t) for t in (0, 1)) > 1.1
    ),
    "Drafts help more at temperature 0, where the text repeats itself": lambda: all(
        gain(part, 0) > gain(part, 1) for part in PARTS if part.startswith("drafts")
    ),
    "and less with int4, where a plain pass is fast already": lambda: all(
        gain("drafts, with int4", t) < gain("drafts, with float32", t) for t in (0, 1)
    ),
    "and still differ by up to 8 %": lambda: round(max(differences_of_equal_work()), 2) == 0.08,
    "Its speed differs by less than 10 % from that of `MTP + QAT int4`": lambda: all(
        abs(speeds(t)[RTN][0] / speeds(t)[BOTH][0] - 1) < 0.1 for t in (0, 1)
    ),
    "*Int4 costs this model little*, by any method: less than 1 %.": lambda: (
        quality("standard") - min(map(quality, (BOTH, RTN, GPTQ))) < 1
    ),
    "QAT costs the most here": lambda: quality(BOTH) < min(quality(RTN), quality(GPTQ)),
    "Here, even rounding to nearest loses less": lambda: quality(RTN) > quality(BOTH),
    "With int4, the weights are less than half of the memory": lambda: all(
        numbers[2] < 0.5e6 * numbers[4]
        for name, numbers in printed_table(10, QUALITY).items()
        if "int4" in name
    ),
}


@pytest.mark.parametrize("sentence", STATEMENTS)
def test_what_the_text_says_about_its_run_holds(sentence):
    assert sentence in prose(10), "the text does not say this any more"
    assert STATEMENTS[sentence](), "run again, this does not hold: change the text"
