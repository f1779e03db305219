"""Generation with trees of drafts on table models."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.decode.generation import Generation, Limits
from minimtp.decode.logits_processors import RepetitionPenalty
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.rules.block import BlockRule
from minimtp.decode.rules.match import Match
from minimtp.decode.rules.token import TokenRule
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.states import DecodingStates
from minimtp.decode.stopping import Stop
from tests.helpers.table_drafters import TableTreeDrafter
from tests.helpers.table_models import (
    TableTarget,
    every_outcome,
    exact_distribution,
    total_variation,
)

PROMPT = [1, 0, 2]


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    context_length=st.integers(3, 30),
    max_new_tokens=st.integers(1, 30),
    nodes=st.integers(1, 9),
    same=st.booleans(),
    stop=st.sets(st.integers(0, 4), max_size=1),
)
def test_greedy_text_with_trees_has_the_end_cache_and_statistics_of_plain_decoding(
    seed, context_length, max_new_tokens, nodes, same, stop
):
    target, nodes = TableTarget(5, context_length, seed), min(nodes, context_length)
    drafter = TableTreeDrafter(TableTarget(5, context_length, seed if same else seed + 1))
    options = {"max_new_tokens": max_new_tokens, "stop_tokens": stop}
    plain = start_generation(target, None, PROMPT, GenerationOptions(**options))
    expected = list(plain)
    run = start_generation(target, drafter, PROMPT, GenerationOptions(tree=nodes, **options))
    text = []
    for round_ in run.rounds():
        text += round_.tokens
        assert target.cache == run.tokens[:-1], (
            "the cache must hold all tokens except the pending one"
        )
        assert run.tokens == [*PROMPT, *text]
        assert run.reason is not None or drafter.tokens == run.tokens
        accepted = round_.accepted
        assert round_.tokens[:accepted] == round_.drafts[:accepted]
        assert len(round_.drafts) <= nodes
    assert (text, run.reason) == (expected, plain.reason)
    counts = run.statistics
    assert counts.emitted == len(text)
    assert sum(counts.drafts_of_length) == sum(counts.drafts_accepted) == counts.steps
    if same:
        assert counts.accepted == counts.drafted


@pytest.mark.parametrize(
    "params",
    [SamplingParams(), SamplingParams(0.6, top_k=2), SamplingParams(1.3, top_p=0.8)],
    ids=["plain", "top-k", "top-p"],
)
@pytest.mark.parametrize("kind", [TokenRule, BlockRule, Match])
def test_text_sampled_with_trees_has_exactly_the_targets_distribution(kind, params):
    target, other = TableTarget(3, seed=1, sharpness=1.0), TableTarget(3, seed=2, sharpness=1.0)

    def text(rng):
        drafter = TableTreeDrafter(other, depth=2)
        limits = Limits(4, draft_depth=2, tree_nodes=3, stop=Stop([0]))
        return tuple(Generation(DecodingStates(target, drafter), PROMPT, kind(params, rng), limits))

    expected = exact_distribution(target, params, PROMPT, 4, [0])
    assert total_variation(every_outcome(text), expected) <= 1e-12


@pytest.mark.parametrize("rule", ["shared-noise", "match"])
def test_with_trees_the_same_seed_gives_the_text_of_plain_decoding(rule):
    for seed in range(25):
        target, other = (TableTarget(seed=seed + i, sharpness=1.0) for i in range(2))
        sampling = SamplingParams(0.9)
        options = {"max_new_tokens": 20, "sampling": sampling, "seed": seed, "rule": rule}
        plain = list(start_generation(target, None, PROMPT, GenerationOptions(**options)))
        for nodes, table in itertools.product([1, 3, 8], [other, target]):
            run = start_generation(
                target, TableTreeDrafter(table), PROMPT, GenerationOptions(tree=nodes, **options)
            )
            assert list(run) == plain
            if table is target and rule == "shared-noise":
                assert run.statistics.accepted == run.statistics.drafted


@pytest.mark.parametrize("rule", ["shared-noise", "match"])
def test_logits_processors_see_the_path_that_leads_to_each_node_of_a_tree(rule):
    for seed in range(10):
        target, other = (TableTarget(seed=seed + i, sharpness=1.0) for i in range(2))
        options = {
            "max_new_tokens": 20,
            "sampling": SamplingParams(0.9),
            "seed": seed,
            "rule": rule,
            "logits_processors": [RepetitionPenalty(1.5)],
        }
        plain = list(start_generation(target, None, PROMPT, GenerationOptions(**options)))
        for table in (other, target):
            drafter = TableTreeDrafter(table)
            assert (
                list(
                    start_generation(target, drafter, PROMPT, GenerationOptions(tree=6, **options))
                )
                == plain
            )


@pytest.mark.parametrize(
    "tokens", [[2, 5], [2, -1], [2, *[0] * 4]], ids=["unknown token", "negative token", "too many"]
)
def test_a_drafter_that_returns_an_invalid_tree_raises_an_error_instead_of_changing_the_text(
    tokens,
):
    target = TableTarget(5, 30)
    drafter = TableTreeDrafter(target)
    tree = Tree(tokens, [0] + [1] * (len(tokens) - 1))
    drafter.draft_tree = lambda nodes, depth, rule, min_acceptance: tree
    with pytest.raises(ValueError, match="TableTreeDrafter gave"):
        list(start_generation(target, drafter, PROMPT, GenerationOptions(max_new_tokens=9, tree=3)))
