"""Lesson 6, by hand: one round, a rule on three bytes, and the block rule on two drafts."""

import re

import pytest

from lessons.lesson06_speculative import diagram
from lessons.lesson06_speculative.formula import print_speedups, tokens_per_pass
from lessons.lesson06_speculative.measure import DEPTHS, Measured
from lessons.lesson06_speculative.rules import output_distribution, total_variation
from minimtp.backend import numpy as np
from minimtp.decode.model_runner import ForwardOutput
from minimtp.decode.round import Round, speculative_round
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.rules.residual import block_acceptance, probability_ratio, residual_distribution
from minimtp.decode.rules.token import token_rule
from tests.lessons.helpers import text
from tests.lessons.worked.reading import row
from tests.table_models import every_outcome

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
    assert f"rejected with probability {TABLE['missing'].sum():.2f}" in PROSE


@pytest.mark.parametrize(("noise", "kind"), [("one", "noise"), ("another", "this noise")])
def test_shared_noise_gives_the_choice_of_the_model(noise, kind):
    added = [float(cell) for cell in cells(f"noise at {noise} position")[:3]]
    choices = []
    for name, distribution in (("p", P), ("q", Q)):
        scores = np.log(distribution) + added
        *row, largest = cells(f"log {name} + {kind}")
        assert row == shown(scores)
        assert largest[0] == "abc"[scores.argmax()]
        choices.append(largest[0])
    accepted = choices[0] == choices[1]
    assert largest.endswith("accepted" if accepted else "rejected")
    assert accepted == (noise == "one")


def test_the_example_of_a_speed_up():
    tokens, c, r, times = re.search(
        r"(\d) tokens per pass with c = ([\d.]+) and r = ([\d.]+) are ([\d.]+) times", PROSE
    ).groups()
    assert float(tokens) / (float(c) + float(r)) == float(times)


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


def output():
    return re.search(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]


def speedups(temperature):
    """Return {K: the other numbers of its line} from the run's table for a temperature."""
    block = output().partition(f"temperature {temperature}, ")[2].partition("\n\n")[0]
    rows = [
        [float(number) for number in re.findall(r"[\d.]+", line)]
        for line in block.splitlines()
        if re.match(r" +\d+ +[\d.]+ % ", line)
    ]
    assert len(rows) == len(DEPTHS) - 1
    return {int(k): numbers for k, *numbers in rows}


@pytest.mark.parametrize("temperature", [0, 1])
def test_the_speed_up_by_the_formula_follows_from_the_other_columns(temperature):
    for k, (rejected, c, r, tokens, _, speedup, _) in speedups(temperature).items():
        low, high = (tokens_per_pass(1 - (rejected + off) / 100, k) for off in (0.05, -0.05))
        assert low - 0.005 <= tokens <= high + 0.005, k  # the printed share is rounded
        # All columns are rounded to two decimals.
        assert speedup == pytest.approx(tokens / (c + r), abs=0.005 + 0.005 * speedup), k


def test_the_row_in_the_text_is_the_runs():
    rejected, c, r, tokens, measured, speedup, faster = speedups(0)[3]
    prose, alpha = " ".join(PAGE.split()), f"{1 - rejected / 100:.3f}"
    assert f"In {rejected} % of the passes the first draft was rejected" in prose
    assert f"α = 1 - {rejected / 100:.3f} = {alpha} 1 + {alpha} + {alpha}² + {alpha}³ = " in prose
    assert f"³ = {tokens:.2f} tokens per pass measured: {measured:.2f}" in prose
    expected = f"{tokens:.2f} / ({c:.2f} + {r:.2f}) = {speedup:.2f} times as fast"
    assert f"{expected} measured: {faster:.2f}" in prose
    assert measured / (c + r) == pytest.approx(faster, rel=0.01)
    rejected, _, _, tokens, measured, *_ = speedups(0)[7]
    assert f"For K = 7, the formula is too low: {tokens:.2f} tokens, and {measured:.2f}" in prose
    assert f"Shared noise is {speedups(1)[3][-1]} times as fast with three drafts" in prose
    assert speedups(1)[7][-1] < 1  # "and slower than plain decoding with seven"
    distance = float(re.search(r"accept every draft +([\d.]+) %", output())[1])
    assert all(rejected > distance for rejected, *_ in speedups(1).values())


def test_the_timeline_has_the_durations_of_the_run():
    assert [diagram.C, diagram.R] == speedups(0)[len(diagram.DRAFTS)][1:3]


def test_the_table_is_computed_from_counts_and_times(capsys):
    def rounds(*accepted):
        return [Round(0, [1, 1], a, [1] * (a + 1)) for a in accepted]

    plain = Measured([], [[Round(0, [], 0, [1])] * 10], 0.0, 10.0)
    print_speedups({0: plain, 2: Measured([], [rounds(0, 1), rounds(2, 2)], 2.0, 6.0)})
    line = capsys.readouterr().out.splitlines()[-1]
    # 3 of 4 first drafts accepted; 9 tokens in 4 passes, each as long as 1.5 + 0.5 plain ones
    numbers = [float(number) for number in re.findall(r"[\d.]+", line)]
    assert numbers == [2, 25.0, 1.5, 0.5, 2.31, 2.25, 1.16, 1.12]


def test_the_table_of_trees_shows_what_the_run_prints():
    for name, printed in (
        ("shared noise", "shared noise"),
        ("token rule", "token rule"),
        ("block rule", "block rule"),
        ("temperature 0", "greedy"),
    ):
        expected = [
            re.search(rf"^  {printed}{tree} +([\d.]+) tokens ", output(), re.MULTILINE)[1]
            for tree in ("", ", tree")
        ]
        assert cells(name, EVENING)[:2] == expected
