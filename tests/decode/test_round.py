"""The speculative round alone, without a generation around it: exact output and the cache
invariant.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.round import prefill, speculative_round
from minimtp.decode.rules.block import BlockRule
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.rules.match import Match
from minimtp.decode.rules.token import TokenRule
from minimtp.decode.sampling.params import SamplingParams
from tests.table_drafters import sampling_drafter
from tests.table_models import (
    TableTarget,
    every_outcome,
    exact_distribution,
    greedy_text,
    total_variation,
)

PROMPT = [1, 0, 2]


def generate(target, drafter, rule, depth, count):
    """The first `count` new tokens, from the round and nothing else."""
    tokens = list(PROMPT)
    prefill(tokens, target, drafter, rule)
    while len(tokens) < len(PROMPT) + count:
        speculative_round(tokens, target, drafter, rule, depth)
    return tuple(tokens[len(PROMPT) : len(PROMPT) + count])


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("kind", [TokenRule, BlockRule, Match])
@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(), SamplingParams(0.6, top_k=2), SamplingParams(1.3, top_p=0.8)],
    ids=["temperature 1", "top-k", "top-p"],
)
def test_with_every_rule_the_output_has_exactly_the_targets_distribution(kind, sampling, depth):
    target, other = TableTarget(3, seed=1, sharpness=1.0), TableTarget(3, seed=2, sharpness=1.0)
    found = every_outcome(
        lambda rng: generate(target, sampling_drafter(other), kind(sampling, rng), depth, 3)
    )
    expected = exact_distribution(target, sampling, PROMPT, 3)
    assert total_variation(found, expected) <= 1e-12


@given(
    seed=st.integers(0, 10**6),
    depths=st.lists(st.integers(0, 4), max_size=6),
    right=st.floats(0, 1),
)
def test_after_every_round_the_cache_holds_all_committed_tokens_but_the_last(seed, depths, right):
    target, random = TableTarget(5, 64, seed), np.random.default_rng(seed)

    def function(tokens, depth, rule):
        correct = greedy_text(target, tokens, depth)
        return [token if random.random() < right else 0 for token in correct], None

    drafter, tokens = FunctionDrafter(function, 4), list(PROMPT)
    first = prefill(tokens, target, drafter, Greedy())
    assert first.tokens == tokens[len(PROMPT) :] and target.cache == tokens[:-1]
    for depth in depths:
        before = list(tokens)
        round_ = speculative_round(tokens, target, drafter, Greedy(), depth)
        assert tokens == [*before, *round_.tokens] and round_.position == len(before)
        assert round_.tokens[:-1] == round_.drafts[: round_.accepted]
        assert target.cache == tokens[:-1] and drafter.tokens == tokens
    assert tokens[len(PROMPT) :] == greedy_text(target, PROMPT, len(tokens) - len(PROMPT))
