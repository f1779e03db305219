"""Lesson 6, by hand: one round, a rule on three bytes, and the block rule on two drafts."""

import re

import pytest

from lessons.lesson06_speculative import diagram
from lessons.lesson06_speculative.formula import print_costs, print_formula, tokens_per_pass
from lessons.lesson06_speculative.measure import DEPTHS, RULES, Measured
from lessons.lesson06_speculative.rules import output_distribution, total_variation
from minimtp.backend import numpy as np
from minimtp.decode.round import Round, speculative_round
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.rules.residual import block_acceptance, probability_ratio, residual_distribution
from minimtp.decode.rules.token import token_rule
from minimtp.decode.target import ForwardOutput
from tests.helpers.table_models import every_outcome
from tests.lessons.helpers import text
from tests.lessons.worked.reading import row

PAGE = text(6)
SECTION = re.search(r"^## By hand$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]
EVENING = re.search(r"^## Second evening$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]


PROSE = " ".join(SECTION.split())  # a sentence may go over the end of a line


def cells(start, page=SECTION):
    """Return the cells of the table row that begins with this text, without the first."""
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in row.strip("|").split("|")[1:]]


def shown(numbers):
    return [f"{number:.2f}" for number in numbers]


P, Q = (np.array([float(cell) for cell in cells(name)[:3]]) for name in ("p |", "q |"))
ACCEPTED = np.minimum(P, Q)
TABLE = {
    "probability of acceptance": np.minimum(1, P / Q),
    "drafted and accepted": ACCEPTED,
    "missing": np.maximum(P - Q, 0),
    "residual distribution": residual_distribution(P, Q),
    "rejected, then": (1 - ACCEPTED.sum()) * residual_distribution(P, Q),
    "**output of the token rule**": output_distribution(P[None], Q[None], residual_distribution)[0],
    "output if we resample": output_distribution(P[None], Q[None], lambda p, q: p)[0],
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_three_bytes_is_computed_by_the_library(name):
    sums = [] if name == "probability of acceptance" else shown([TABLE[name].sum()])
    assert [cell for cell in cells(name) if cell] == shown(TABLE[name]) + sums


def test_the_token_rule_gives_p_if_all_outcomes_are_added_up():
    outcomes = {}
    for draft in range(3):
        found = every_outcome(lambda rng, d=draft: token_rule(np.array([P, P]), Q[None], [d], rng))
        for (accepted, token), probability in found.items():
            byte = draft if accepted else token
            outcomes[byte] = outcomes.get(byte, 0) + Q[draft] * probability
    assert [outcomes[byte] for byte in range(3)] == pytest.approx(list(P))


def test_the_distance_of_the_wrong_rule_in_the_text():
    wrong = TABLE["output if we resample"]
    parts = " + ".join(shown(np.abs(wrong - P)))
    distance = total_variation(wrong[None], P[None])
    assert f"({parts}) / 2 = {distance:.2f}" in PROSE
    rejected, c = TABLE["missing"].sum(), 2
    assert f"rejected with probability {rejected:.2f}" in PROSE
    twice = f"c gets its {ACCEPTED[c]:.2f} as a draft, and another {rejected * P[c]:.2f} as a"
    assert twice in PROSE


@pytest.mark.parametrize(("noise", "kind"), [("one", "noise"), ("another", "this noise")])
def test_shared_noise_gives_the_choice_of_the_model(noise, kind):
    added, choices = row(EVENING, f"noise at {noise} position"), []
    for name, distribution in (("p", P), ("q", Q)):
        scores = np.log(distribution) + added
        line = re.search(rf"^    log {name} \+ {kind} .*$", EVENING, re.MULTILINE)[0]
        assert re.findall(r"-?\d\.\d\d", line) == shown(scores)
        choices.append("abc"[scores.argmax()])
        assert f"  {choices[-1]}, the {'model' if name == 'p' else 'draft'}" in line
    accepted = choices[0] == choices[1]
    assert line.endswith("accepted" if accepted else "rejected")
    assert accepted == (noise == "one")


def test_the_weights_of_the_block_rule_in_the_text():
    c, a = 2, 0
    first = min(1, probability_ratio(P, Q, c))
    second = min(1, first * probability_ratio(P, Q, a))
    assert f"w_1 = {P[c]} / {Q[c]} = {first:.2f}" in EVENING
    assert f"w_2 = {first:.2f} · {P[a]} / {Q[a]} = {second:.2f}" in EVENING
    means = [min(1, first * probability_ratio(P, Q, x)) for x in range(3)]
    assert row(EVENING, "w_2") == pytest.approx(means, abs=0.005)
    terms = " + ".join(f"{q:.2f} · {w:.2f}" for q, w in zip(Q, means, strict=True))
    assert f" {terms} = {Q @ means:.2f}\n" in EVENING and Q @ means == pytest.approx(first)
    assert f"w_1 p = ({', '.join(shown(first * P))})" in EVENING
    assert (first * P <= Q).all() and block_acceptance(P, Q, first) == 0


class FixedTarget:
    """Chooses the given bytes, and records how many rows its cache holds after each call."""

    max_rows = 16

    def __init__(self, choices, rows):
        self.choices, self.lengths = choices, [rows]

    def forward(self, tokens):
        self.fed = bytes(tokens.tolist())
        self.lengths.append(self.lengths[-1] + len(tokens))
        logits = np.eye(256, dtype=np.float32)[list(self.choices[: len(tokens)])]
        return ForwardOutput(logits, np.zeros((len(tokens), 1), np.float32))

    def truncate(self, length):
        self.lengths.append(length)


class FixedDrafter:
    def __init__(self, drafts):
        self.drafts = drafts

    def draft(self, depth, rule):
        return list(self.drafts[:depth]), None

    def commit(self, hidden, tokens):
        self.committed = bytes(tokens.tolist())


def letters(row):
    return "".join(re.findall(r"`(.)`", row)).encode()


def test_the_round_in_the_text_happens_as_it_says():
    rows = re.search(r"^\| before \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)[0].splitlines()
    before, draft, verify, choices, truncate, commit = [row for row in rows if row]
    numbers = [re.findall(r"\d+", row) for row in (before, draft, verify, truncate, commit)]
    tokens = list(b"def main(")
    target = FixedTarget(letters(choices) + b"?", len(tokens) - 1)
    drafter = FixedDrafter(letters(draft))
    speculative_round(tokens, target, drafter, Greedy(), 3)
    assert target.fed == letters(verify) and drafter.committed == letters(commit)
    assert letters(truncate) == target.fed[: len(drafter.committed)]
    held, verified, kept = target.lengths
    chosen = [9, 9, 9, 9, len(tokens)]
    assert numbers == [
        [str(m), str(n)] for m, n in zip(chosen, [held, held, verified, kept, kept], strict=True)
    ]


OUTPUT, DETAILS = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
RULE = re.compile(r"^  (\D+?) +([\d.]+) tokens +([\d.]+) bits +([\d,]+) tokens/s", re.MULTILINE)


def numbers_by_depth(block, wanted):
    """Return {K: the other numbers of its line} for the lines that the pattern matches."""
    rows = [
        [float(number) for number in re.findall(r"[\d.]+", line)]
        for line in block.splitlines()
        if re.match(wanted, line)
    ]
    assert len(rows) == len(DEPTHS) - 1
    return {int(k): numbers for k, *numbers in rows}


COSTS = numbers_by_depth(OUTPUT, r" +\d+ +[\d.]+ x ")  # c, r, tokens per pass, speed-up


def speedups(temperature):
    """Return {K: the other numbers of its line} from the table of the formula."""
    block = re.search(
        rf"^temperature {temperature}, [^\n]*: the formula.*?(\n\n|\Z)", DETAILS, re.M | re.S
    )
    return numbers_by_depth(block[0], r" +\d+ +[\d.]+ % ")


def rules(temperature):
    """Return {rule: (tokens per pass, tokens/s)} from the details."""
    block = re.search(rf"^temperature {temperature}, [^\n]* speed$.*?\n\n", DETAILS, re.M | re.S)[0]
    return {name: (float(t), float(s.replace(",", ""))) for name, t, _, s in RULE.findall(block)}


def test_the_speed_up_is_the_tokens_per_pass_divided_by_the_costs():
    for k, (c, r, tokens, speedup) in COSTS.items():
        # All columns are rounded to two decimals.
        assert speedup == pytest.approx(tokens / (c + r), abs=0.005 + 0.01 * speedup), k
    c, r, tokens, speedup = COSTS[3]
    assert f"for K = 3, {tokens:.2f} / ({c:.2f} + {r:.2f}) = {speedup:.2f}." in " ".join(
        PAGE.split()
    )


def test_most_drafts_give_the_most_tokens_but_not_the_highest_speed():
    most = max(COSTS)
    prose = " ".join(PAGE.split())
    (named,) = re.findall(r"K = (\d+) \([^)]*\) gives the most tokens per pass, but not the", prose)
    assert int(named) == most
    assert all(COSTS[most][2] > COSTS[k][2] for k in COSTS if k != most)
    assert COSTS[most][3] < max(speedup for *_, speedup in COSTS.values())


def test_at_temperature_1_fewer_drafts_are_accepted_and_the_speed_up_is_lower():
    at_0, at_1, prose = speedups(0), speedups(1), " ".join(PAGE.split())
    (lower,) = re.findall(r"from K = (\d+) on, the speed-up is lower", prose)
    for k in at_0:
        assert at_1[k][4] < at_0[k][4], k
        assert (at_1[k][6] < at_0[k][6]) == (k >= int(lower)), k


def test_the_gain_of_the_token_rule_at_temperature_1():
    block = OUTPUT.partition("temperature 0")[0]
    plain, token = (float(speed.replace(",", "")) for *_, speed in RULE.findall(block))
    gain = token / plain - 1
    prose = " ".join(PAGE.split())
    assert f"With seven drafts, the token rule is {100 * gain:.0f} % faster than plain" in prose


def test_what_each_further_draft_costs():
    prose = " ".join(PAGE.split())
    (share,) = re.findall(r"each further one about (\d+) % of a", prose)
    assert f"seven of them take {COSTS[7][1]:.2f} of the time of a forward pass" in prose
    for k in (7, 15):
        assert 100 * (COSTS[k][1] - COSTS[1][1]) / (k - 1) == pytest.approx(int(share), abs=0.5)
    assert f"One draft costs r = {COSTS[1][1]:.2f}, " in prose


def test_the_losses_of_all_exact_rules_are_in_the_quoted_range():
    block = DETAILS.partition("temperature 0")[0]
    losses = [float(bits) for _, _, bits, _ in RULE.findall(block)]
    assert f"between {min(losses):.2f} and {max(losses):.2f} bits" in " ".join(PAGE.split())


def test_details_and_costs_are_of_one_run():
    assert {k: [c, r, tokens, s] for k, (_, c, r, _, tokens, _, s) in speedups(0).items()} == COSTS


@pytest.mark.parametrize("temperature", [0, 1])
def test_the_speed_up_by_the_formula_follows_from_the_other_columns(temperature):
    for k, (rejected, c, r, tokens, _, speedup, _) in speedups(temperature).items():
        low, high = (tokens_per_pass(1 - (rejected + off) / 100, k) for off in (0.05, -0.05))
        assert low - 0.005 <= tokens <= high + 0.005, k  # the printed share is rounded
        assert speedup == pytest.approx(tokens / (c + r), abs=0.005 + 0.005 * speedup), k


def test_the_row_of_the_formula_in_the_text_is_the_runs():
    rejected, c, r, tokens, measured, speedup, faster = speedups(0)[3]
    prose, alpha = " ".join(PAGE.split()), f"{1 - rejected / 100:.3f}"
    assert f"In {rejected} % of the passes the first draft was rejected" in prose
    assert f"α = 1 - {rejected / 100:.3f} = {alpha} 1 + {alpha} + {alpha}² + {alpha}³ = " in prose
    assert f"³ = {tokens:.2f} tokens per pass measured: {measured:.2f}" in prose
    expected = f"{tokens:.2f} / ({c:.2f} + {r:.2f}) = {tokens / (c + r):.2f} times as fast"
    assert f"{expected} measured: {faster:.2f}" in prose
    assert f"divides numbers that are not rounded, and prints {speedup:.2f}" in prose
    rejected, _, _, tokens, measured, *_ = speedups(0)[7]
    assert f"For K = 7, the formula is too low: {tokens:.2f} tokens, and {measured:.2f}" in prose
    assert tokens < measured
    for k in (1, 3):  # "the formula is a little too high"
        assert 1 <= speedups(0)[k][3] / speedups(0)[k][4] < 1.05
    distance = re.search(r"accept every draft +([\d.]+) %", OUTPUT)[1]
    assert f"It is larger than the {distance} % in the first line" in prose
    assert all(rejected > float(distance) for rejected, *_ in speedups(1).values())


def test_the_timeline_has_the_durations_of_the_run():
    assert [diagram.C, diagram.R] == COSTS[len(diagram.DRAFTS)][:2]


def test_the_tables_are_computed_from_counts_and_times(capsys):
    def rounds(*accepted):
        return [Round(0, [1, 1], a, [1] * (a + 1)) for a in accepted]

    plain = Measured([], [[Round(0, [], 0, [1])] * 10], 0.0, 10.0)
    found = {0: plain, 2: Measured([], [rounds(0, 1), rounds(2, 2)], 2.0, 6.0)}
    # 3 of 4 first drafts accepted; 9 tokens in 4 passes, each as long as 1.5 + 0.5 plain ones
    for show, expected in (
        (print_costs, [2, 1.5, 0.5, 2.25, 1.12]),
        (lambda by_depth: print_formula(0, by_depth), [2, 25.0, 1.5, 0.5, 2.31, 2.25, 1.16, 1.12]),
    ):
        show(found)
        line = capsys.readouterr().out.splitlines()[-1]
        assert [float(number) for number in re.findall(r"[\d.]+", line)] == expected


def test_shared_noise_accepts_fewer_drafts_than_the_token_rule():
    shared, token = (rules(1)[name][0] for name in ("shared noise", "token rule"))
    assert shared < token
    expected = f"it gives {shared:.2f} tokens per pass, and the token rule {token:.2f}."
    assert expected in " ".join(PAGE.split())


def test_what_the_text_says_of_trees_is_what_the_run_shows():
    every = rules(1) | {name: row for name, row in rules(0).items() if "greedy" in name}
    gains = {
        name: every[f"{name}, tree"][0] / every[name][0]
        for name in ("shared noise", "token rule", "block rule", "greedy")
    }
    assert max(gains, key=gains.get) == "shared noise" and gains["shared noise"] > 1.05
    assert all(gain < 1.08 for name, gain in gains.items() if name != "shared noise")
    assert all(every[f"{name}, tree"][1] < every[name][1] for name in gains)


def test_only_the_wrong_rules_have_no_speed():
    block = OUTPUT.partition("temperature 1")[2].partition("\n\n")[0]
    assert {name for name, *_ in RULE.findall(block)} == {*RULES[1][::3]}
