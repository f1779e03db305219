"""The chosen length is the one of the highest speed, plain decoding is never far from reach, and the text is the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.options import start_generation
from minimtp.decode.policy.adaptive import (
    ALLOWANCE,
    FIRST_CREDIT,
    FIRST_LENGTH,
    REFERENCES,
    AdaptivePolicy,
)
from minimtp.decode.sampling import SamplingParams
from minimtp.decode.statistics import Statistics
from tests.table_models import TableTarget, greedy_text

MOST = 8


class Machine:
    """Costs without a clock: a pass over T tokens takes base + T * row seconds."""

    def __init__(self, base=90e-6, row=10e-6):
        self.passes = [base + row * (drafts + 1) for drafts in range(MOST + 1)]

    def at(self, length):
        return self.passes, 10**9


class Text:
    """A text without a model, whose drafts are accepted with probability acceptance(round)."""

    def __init__(self, machine, lengths, seed=0):
        self.machine, self.lengths, self.random = machine, lengths, np.random.default_rng(seed)
        self.statistics = Statistics(
            1, 1, 0, 0.0, 0.0, 0.0, [0] * (MOST + 1), [0] * (MOST + 1), [0] * (MOST + 2)
        )
        self.asked, self.trees, self.left = [], [], 0

    def run(
        self,
        rounds,
        acceptance,
        draft_seconds=lambda drafts: 5e-6 * drafts,
        overhead=3e-6,
        in_trees=None,
    ):
        """in_trees: the acceptance where a tree was planned, which is drafted as large as it may be."""
        counts = self.statistics
        for round_ in range(rounds):
            if self.left == 0:
                self.plan = self.lengths.choose(MOST, 10, counts)
                self.left = self.plan.rounds
            self.left -= 1
            wanted, drafted = self.plan.drafts, self.plan.nodes or self.plan.drafts
            accepted, share = (
                0,
                (in_trees or acceptance)(round_) if self.plan.nodes else acceptance(round_),
            )
            while accepted < wanted and self.random.random() < share:
                accepted += 1
            counts.steps, counts.emitted = counts.steps + 1, counts.emitted + accepted + 1
            counts.passes_of_length[1 + drafted] += 1
            counts.drafts_of_length[wanted] += 1
            counts.drafts_accepted[accepted] += 1
            counts.seconds_draft += draft_seconds(drafted)
            counts.seconds_verify += self.machine.passes[drafted] + overhead
            self.asked.append(wanted)
            self.trees.append(self.plan.nodes > 0)
        return self

    @property
    def seconds(self):
        return self.statistics.seconds_draft + self.statistics.seconds_verify


def speed(machine, share, drafts, draft_seconds=5e-6, overhead=3e-6):
    return sum(share**depth for depth in range(drafts + 1)) / (
        machine.passes[drafts] + overhead + drafts * draft_seconds
    )


def run(machine, acceptance, rounds, **options):
    return Text(machine, AdaptivePolicy(machine, MOST)).run(rounds, acceptance, **options)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("row", [1e-6, 10e-6, 60e-6])
def test_it_comes_close_to_the_best_fixed_length_and_never_falls_far_behind_plain_decoding(
    share, row
):
    machine = Machine(row=row)
    text = run(machine, lambda round_: share, 4000)
    reached = (text.statistics.emitted - 1) / text.seconds
    assert reached >= 0.98 * speed(machine, share, 0)
    assert reached >= 0.94 * max(speed(machine, share, drafts) for drafts in range(MOST + 1))


@pytest.mark.parametrize("asking", [0.0, 40e-6])
def test_it_learns_what_a_draft_costs_besides_its_tokens(asking):
    """A drafter whose first token is dear and whose others are free should be asked for all of them, or not at all."""
    machine = Machine(row=1e-6)
    text = run(
        machine, lambda round_: 0.8, 4000, draft_seconds=lambda drafts: asking * (drafts > 0)
    )
    assert np.median(text.asked[1000:]) >= MOST - 1


@pytest.mark.parametrize("rounds", [95, 1000, 10_000])
@pytest.mark.parametrize("row", [1e-6, 10e-6, 60e-6])
def test_text_that_cannot_be_drafted_costs_the_first_credit_and_the_allowance(rounds, row):
    machine = Machine(row=row)
    seconds = run(machine, lambda round_: 0.0, rounds).seconds
    plain = machine.passes[0] + 3e-6
    longest = (machine.passes[FIRST_LENGTH] - machine.passes[0] + FIRST_LENGTH * 5e-6) / plain
    # The first draft is not held against drafting, and the last plan may overdraw the account by a round and be two rounds.
    assert seconds / plain <= (1 + ALLOWANCE) * rounds + FIRST_CREDIT + 3 * longest


def test_it_notices_within_a_few_dozen_rounds_that_a_text_becomes_easy_or_hard():
    asked = run(
        Machine(), lambda round_: 0.0 if round_ < 600 else 1.0 if round_ < 1200 else 0.0, 1800
    ).asked
    assert np.mean(asked[300:600]) < 0.5
    assert np.mean(asked[760:1200]) > MOST - 1
    assert np.mean(asked[1300:]) < 0.5


def test_a_plain_stretch_still_tries_again():
    asked = run(Machine(), lambda round_: 0.0, 2000).asked
    assert 3 <= sum(wanted > 0 for wanted in asked[1000:]) < 100


def test_between_two_trials_nothing_is_asked():
    machine, questions = Machine(row=60e-6), []
    lengths = AdaptivePolicy(machine, MOST)
    choose = lengths.choose
    lengths.choose = lambda *arguments: (questions.append(1), choose(*arguments))[1]
    Text(machine, lengths).run(2000, lambda round_: 0.0)
    assert len(questions) < 2000 / 30


@pytest.mark.parametrize(
    ("chains", "trees", "expected"), [(0.5, 0.85, True), (0.6, 0.6, False), (0.9, 0.3, False)]
)
def test_trees_are_grown_where_they_bring_more_tokens_a_second_than_chains(chains, trees, expected):
    """A tree of 8 costs as much as a chain of 8, and a chain may be shorter."""
    machine = Machine(row=4e-6)
    text = Text(machine, AdaptivePolicy(machine, MOST, MOST))
    text.run(3000, lambda round_: chains, in_trees=lambda round_: trees)
    share = np.mean(text.trees[500:])
    assert share > 0.8 if expected else share < 0.2


@pytest.mark.parametrize("row", [1e-6, 10e-6, 60e-6])
def test_with_trees_too_hopeless_text_is_hardly_slower_than_plain_decoding(row):
    machine = Machine(row=row)
    text = Text(machine, AdaptivePolicy(machine, MOST, MOST)).run(3000, lambda round_: 0.05)
    assert (text.statistics.emitted - 1) / text.seconds >= 0.98 * speed(machine, 0.05, 0)


def test_one_slow_round_does_not_end_drafting():
    text = run(Machine(), lambda round_: 0.9, 200)
    text.statistics.seconds_verify += 1.0  # the process was put to sleep for a second
    asked = text.run(50, lambda round_: 0.9).asked[200:]
    assert (
        sum(wanted == 0 for wanted in asked) <= REFERENCES
    )  # rounds that measure what drafting nothing costs


def test_first_rounds_that_took_long_do_not_end_drafting_for_good():
    text = run(Machine(), lambda round_: 0.9, 12, draft_seconds=lambda drafts: 1e-3 * drafts)
    assert np.mean(text.run(600, lambda round_: 0.9).asked[500:]) > MOST / 2


def test_what_is_known_of_one_text_serves_the_next_and_none_is_held_against_another():
    machine = Machine()
    lengths = AdaptivePolicy(machine, MOST)
    for seed in range(20):
        text = Text(machine, lengths, seed).run(30, lambda round_: 0.9)
    assert 0 not in text.asked[:10] and np.mean(text.asked) > MOST / 2


class Knowing(FunctionDrafter):
    """Drafts what the target will say, as a chain or as a tree."""

    def __init__(self, target):
        super().__init__(
            lambda tokens, wanted, rule: (greedy_text(target, tokens, wanted), None), MOST
        )
        self.target = target

    def draft_tree(self, nodes, depth, rule, min_acceptance):
        def follow(node, parent, path):
            return self.target.logits([*self.tokens, *path])[None]

        return grow(self.tokens[-1], follow, rule, nodes, depth, min_acceptance)


@given(
    seed=st.integers(0, 1000), temperature=st.sampled_from([0.0, 1.0]), slowness=st.floats(0, 1e-3),
    nodes=st.sampled_from([0, 0, 6]),
)  # fmt: skip
def test_the_text_does_not_depend_on_what_was_planned(seed, temperature, slowness, nodes):
    target = TableTarget(5, 80, seed)
    drafter = Knowing(target)
    options = dict(
        max_new_tokens=60, sampling=SamplingParams(temperature), seed=seed, rule="shared-noise"
    )
    lengths = AdaptivePolicy(Machine(row=slowness), MOST, nodes)
    run = start_generation(target, drafter, [1, 2], policy=lengths, tree=nodes, **options)
    asked = [len(round_.drafts) for round_ in run.rounds()]
    assert run.tokens[2:] == list(start_generation(target, None, [1, 2], **options))
    assert asked[0] == 0 and max(asked) <= MOST


def test_a_text_that_begins_is_planned_by_what_passes_cost_there_and_not_where_the_last_text_ended():
    class Buckets:
        def at(self, length):
            return (
                (Machine(row=60e-6).passes, 1000)
                if length >= 100
                else (Machine(row=1e-6).passes, 100)
            )

    lengths, machine = AdaptivePolicy(Buckets(), MOST), Machine(row=1e-6)
    long = Text(machine, lengths).statistics
    lengths.choose(MOST, 500, long)
    text = Text(machine, lengths).run(600, lambda round_: 0.8, draft_seconds=lambda drafts: 0.0)
    assert np.mean(text.asked[300:]) > MOST - 1
