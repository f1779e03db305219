"""Sampled text on table models: exact distributions, and the same text from the same seed."""

import itertools

import pytest

from minimtp.decode.generation import Generation, Limits
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.rules.block import BlockRule
from minimtp.decode.rules.match import Match
from minimtp.decode.rules.registry import RULES
from minimtp.decode.rules.token import TokenRule
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.states import DecodingStates
from minimtp.decode.stopping import Stop
from tests.helpers.table_drafters import constant_drafter, guessing_drafter, sampling_drafter
from tests.helpers.table_models import (
    TableTarget,
    every_outcome,
    exact_distribution,
    total_variation,
)

PROMPT = [1, 0, 2]


def two_tables(seed):
    """Return a target and another table that drafts."""
    target = TableTarget(seed=seed, sharpness=1.0)
    return target, TableTarget(seed=seed + 1, sharpness=1.0)


@pytest.mark.parametrize(
    "params",
    [SamplingParams(), SamplingParams(0.6, top_k=2), SamplingParams(1.3, top_p=0.8)],
    ids=["plain", "top-k", "top-p"],
)
@pytest.mark.parametrize(("depth", "stop"), [(0, ()), (1, ()), (2, (0,)), (3, ())], ids=str)
@pytest.mark.parametrize("kind", [TokenRule, BlockRule, Match])
def test_sampled_text_has_exactly_the_targets_distribution_with_and_without_drafts(
    kind, params, depth, stop
):
    target, other = TableTarget(3, seed=1, sharpness=1.0), TableTarget(3, seed=2, sharpness=1.0)

    def text(rng):
        drafter = sampling_drafter(other) if depth else None
        limits = Limits(4, depth, stop=Stop(stop))
        return tuple(Generation(DecodingStates(target, drafter), PROMPT, kind(params, rng), limits))

    expected = exact_distribution(target, params, PROMPT, 4, stop)
    assert total_variation(every_outcome(text), expected) <= 1e-12


def test_the_default_rule_is_shared_noise():
    target, other = TableTarget(sharpness=0.5), TableTarget(seed=1, sharpness=0.5)
    options = {"max_new_tokens": 20, "sampling": SamplingParams(), "seed": 3}
    shared_noise, token = (
        list(start_generation(target, None, PROMPT, GenerationOptions(**options, rule=rule)))
        for rule in ("shared-noise", "token")
    )
    drafted = list(
        start_generation(target, sampling_drafter(other), PROMPT, GenerationOptions(**options))
    )
    assert drafted == shared_noise != token


@pytest.mark.parametrize(
    ("rule", "temperature"),
    [("match", 0.8), *(("shared-noise", temperature) for temperature in (0.3, 0.7, 1.0, 1.3))],
)
def test_with_shared_noise_and_match_the_same_seed_gives_the_same_text_with_any_drafter(
    rule, temperature
):
    for seed in range(25):
        target, other = two_tables(seed)
        drafters = [
            None,
            guessing_drafter(target, seed),
            sampling_drafter(other),
            sampling_drafter(target),
            constant_drafter(0, 1, 2),
        ]
        sampling = SamplingParams(temperature)
        options = {"max_new_tokens": 20, "sampling": sampling, "seed": seed, "rule": rule}
        texts = {
            tuple(start_generation(target, drafter, PROMPT, GenerationOptions(**options)))
            for drafter in drafters
        }
        assert len(texts) == 1


def test_with_shared_noise_a_drafter_equal_to_the_target_has_all_drafts_accepted():
    target = TableTarget(sharpness=1.0)
    options = {"sampling": SamplingParams(), "seed": 4, "rule": "shared-noise"}
    run = start_generation(
        target, sampling_drafter(target), PROMPT, GenerationOptions(max_new_tokens=21, **options)
    )
    assert len(list(run)) == 21 and run.statistics.accepted == run.statistics.drafted
    assert run.statistics.tokens_per_step == 4.0


@pytest.mark.parametrize("rule", RULES)
def test_the_seed_determines_the_text(rule):
    target, other = TableTarget(sharpness=0.5), TableTarget(seed=1, sharpness=0.5)

    def text(seed):
        options = {"sampling": SamplingParams(), "seed": seed, "rule": rule}
        drafter = sampling_drafter(other)
        return tuple(
            start_generation(
                target, drafter, PROMPT, GenerationOptions(max_new_tokens=20, **options)
            )
        )

    assert text(0) == text(0)
    assert len({text(seed) for seed in range(5)}) == 5


@pytest.mark.parametrize("rule", RULES)
def test_sampled_text_keeps_the_cache_invariant_and_its_length(rule):
    sizes = itertools.product([3, 4, 7, 30], [1, 2, 5, 12])
    for seed, (context_length, max_new_tokens) in enumerate(sizes):
        target = TableTarget(context_length=context_length, seed=seed)
        options = {"sampling": SamplingParams(), "seed": seed, "rule": rule}
        drafter = sampling_drafter(TableTarget(seed=seed + 9))
        run = start_generation(
            target, drafter, PROMPT, GenerationOptions(max_new_tokens=max_new_tokens, **options)
        )
        for _ in run.rounds():
            assert target.cache == run.tokens[:-1]
        room = context_length + 1 - len(PROMPT)
        assert len(run.tokens) - len(PROMPT) == min(max_new_tokens, room)
