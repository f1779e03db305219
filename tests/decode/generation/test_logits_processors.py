"""Logits processors see only the past of each row; drafted text has their distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.generation import Generation, Limits
from minimtp.decode.logits_processors import ProcessedRule, RepetitionPenalty
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.rules.block import BlockRule
from minimtp.decode.rules.match import Match
from minimtp.decode.rules.token import TokenRule
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.states import DecodingStates
from minimtp.errors import UserError
from tests.helpers.table_models import TableTarget, every_outcome, total_variation

PROMPT, VOCABULARY = [1, 0], 3


def count_penalty(logits, text):
    """Lowers the logit of a token by 1.5 per occurrence in the last two tokens."""
    rows = len(logits)
    counts = [
        np.bincount(text[: len(text) - rows + 1 + row][-2:], minlength=logits.shape[1])
        for row in range(rows)
    ]
    return logits - 1.5 * np.array(counts)


KINDS = pytest.mark.parametrize("kind", [TokenRule, BlockRule, Match])
PROCESSORS = {
    "repetition": [RepetitionPenalty(1.7)],
    "both": [RepetitionPenalty(0.6), count_penalty],
}


def processed(logits_processors, logits, text):
    for processor in logits_processors:
        logits = processor(logits[None], np.array(text))[0]
    return logits


@given(
    text=st.lists(st.integers(0, 5), min_size=4, max_size=20),
    rows=st.integers(1, 4),
    penalty=st.floats(0.1, 5),
    seed=st.integers(0, 99),
)
def test_each_of_several_rows_is_penalized_for_its_own_past_only(text, rows, penalty, seed):
    logits = np.random.default_rng(seed).standard_normal((rows, 6))
    together = RepetitionPenalty(penalty)(logits, np.array(text))
    for row in range(rows):
        past = text[: len(text) - rows + 1 + row]
        for token, logit in enumerate(logits[row]):
            once = (logit / penalty if logit > 0 else logit * penalty) if token in past else logit
            assert together[row, token] == once
    assert (RepetitionPenalty(1)(logits, np.array(text)) == logits).all()


def exact_distribution(target, sampling, logits_processors, length):
    """Return {text: probability}, the products of the processed distributions of every prefix."""
    texts = {(): 1.0}
    for _ in range(length):
        longer = {}
        for text, probability in texts.items():
            prefix = [*PROMPT, *text]
            row = sampling.probabilities(
                processed(logits_processors, target.logits(prefix), prefix)[None]
            )[0]
            longer |= {
                (*text, token): probability * share for token, share in enumerate(row) if share > 0
            }
        texts = longer
    return texts


def sampling_drafter(other, depth):
    def function(tokens, wanted, rule):
        tokens, scores = list(tokens), []
        for index in range(wanted):
            sampled, score = rule.sample(other.logits(tokens)[None], index)
            tokens.append(int(sampled[0]))
            scores.append(score)
        return tokens[-wanted:], None if scores[0] is None else np.concatenate(scores)

    return FunctionDrafter(function, depth)


def all_at_once_drafter(other, depth):
    """Drafts several rows in one call, like parallel heads."""

    def function(tokens, wanted, rule):
        sampled, scores = rule.sample(
            np.stack([other.logits([*tokens, index]) for index in range(wanted)]), 0
        )
        return sampled, scores

    return FunctionDrafter(function, depth)


class TreeDrafter(FunctionDrafter):
    """Grows trees from the logits of another table."""

    def __init__(self, other, depth):
        super().__init__(None, depth)
        self.other = other

    def draft_tree(self, nodes, depth, rule, min_acceptance):
        def follow(node, parent, path):
            return self.other.logits([*self.tokens, *path])[None]

        return grow(self.tokens[-1], follow, rule, nodes, depth)


def text_distribution(
    target, drafter, sampling, logits_processors, depth, length=4, kind=TokenRule, nodes=0
):
    def text(rng):
        rule = ProcessedRule(
            kind(sampling, rng), logits_processors, np.array(PROMPT), len(PROMPT) + length
        )
        return tuple(
            Generation(
                DecodingStates(target, drafter),
                PROMPT,
                rule,
                Limits(length, depth, tree_nodes=nodes),
            )
        )

    return every_outcome(text)


@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(0.7, top_k=2)], ids=["plain", "top-k"]
)
@pytest.mark.parametrize("logits_processors", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize(
    "drafts", [None, sampling_drafter, all_at_once_drafter], ids=["none", "chain", "parallel"]
)
@KINDS
def test_drafted_text_has_exactly_the_processed_distribution(
    kind, sampling, logits_processors, drafts
):
    target, other = (
        TableTarget(VOCABULARY, seed=1, sharpness=1.0),
        TableTarget(VOCABULARY, seed=2, sharpness=1.0),
    )
    found = text_distribution(
        target,
        drafts and drafts(other, 2),
        sampling,
        logits_processors,
        2 if drafts else 0,
        kind=kind,
    )
    assert (
        total_variation(found, exact_distribution(target, sampling, logits_processors, 4)) <= 1e-12
    )


@KINDS
@given(
    seed=st.integers(0, 10**6),
    penalty=st.floats(0.3, 4),
    sharpness=st.sampled_from([0.5, 2.0]),
    depth=st.integers(1, 3),
)
@settings(max_examples=6)
def test_drafted_text_has_the_penalized_distribution_for_any_penalty(
    kind, seed, penalty, sharpness, depth
):
    target, other = (
        TableTarget(VOCABULARY, seed=seed + one, sharpness=sharpness) for one in range(2)
    )
    logits_processors = [RepetitionPenalty(penalty)]
    found = text_distribution(
        target, sampling_drafter(other, depth), SamplingParams(), logits_processors, depth, 3, kind
    )
    assert (
        total_variation(found, exact_distribution(target, SamplingParams(), logits_processors, 3))
        <= 1e-12
    )


@pytest.mark.parametrize("logits_processors", PROCESSORS.values(), ids=PROCESSORS)
@KINDS
def test_text_drafted_in_trees_has_exactly_the_processed_distribution(kind, logits_processors):
    target, other = (
        TableTarget(VOCABULARY, seed=1, sharpness=1.0),
        TableTarget(VOCABULARY, seed=2, sharpness=1.0),
    )
    found = text_distribution(
        target, TreeDrafter(other, 2), SamplingParams(), logits_processors, 2, 3, kind, nodes=3
    )
    assert (
        total_variation(found, exact_distribution(target, SamplingParams(), logits_processors, 3))
        <= 1e-12
    )


def accepted_on_average(kind, penalty, seed):
    """Return the mean number of accepted drafts of a round with up to two drafts."""
    target, other = (TableTarget(VOCABULARY, seed=seed + one, sharpness=1.0) for one in range(2))

    def one_round(rng):
        rule = ProcessedRule(
            kind(SamplingParams(), rng),
            [RepetitionPenalty(penalty)],
            np.array(PROMPT),
            len(PROMPT) + 4,
        )
        rounds = Generation(
            DecodingStates(target, sampling_drafter(other, 2)), PROMPT, rule, Limits(4, 2)
        ).rounds()
        next(rounds)
        return next(rounds).accepted

    return sum(accepted * probability for accepted, probability in every_outcome(one_round).items())


@pytest.mark.parametrize("penalty", [0.6, 1.7, 3.0])
def test_with_a_penalty_the_block_rule_accepts_at_least_as_much_as_the_token_rule(penalty):
    for seed in range(8):
        block, token = (accepted_on_average(kind, penalty, seed) for kind in (BlockRule, TokenRule))
        assert block >= token - 1e-12


@pytest.mark.parametrize("kind", [TokenRule, BlockRule])
def test_a_penalty_that_does_not_see_the_drafts_changes_the_distribution(kind):
    def blind(logits, text):
        committed = text[: len(text) - len(logits) + 1]
        return np.concatenate([RepetitionPenalty(1.7)(row[None], committed) for row in logits])

    target, other = (
        TableTarget(VOCABULARY, seed=1, sharpness=1.0),
        TableTarget(VOCABULARY, seed=2, sharpness=1.0),
    )
    found = text_distribution(
        target, sampling_drafter(other, 2), SamplingParams(), [blind], 2, kind=kind
    )
    assert (
        total_variation(
            found, exact_distribution(target, SamplingParams(), [RepetitionPenalty(1.7)], 4)
        )
        > 0.01
    )


@given(
    seed=st.integers(0, 500),
    temperature=st.sampled_from([0.0, 0.7]),
    name=st.sampled_from([*PROCESSORS]),
)
def test_greedy_and_shared_noise_text_is_the_same_with_and_without_drafts(seed, temperature, name):
    target, other = TableTarget(5, 40, seed, 1.0), TableTarget(5, 40, seed + 1, 1.0)
    options = dict(
        max_new_tokens=25,
        sampling=SamplingParams(temperature),
        seed=seed,
        rule="shared-noise",
        logits_processors=PROCESSORS[name],
    )
    plain = list(start_generation(target, None, PROMPT, GenerationOptions(**options)))
    for drafter in (
        sampling_drafter(other, 3),
        sampling_drafter(target, 4),
        all_at_once_drafter(other, 3),
    ):
        assert (
            list(start_generation(target, drafter, PROMPT, GenerationOptions(**options))) == plain
        )
    if temperature == 0:
        tokens = list(PROMPT)
        for _ in range(25):
            tokens.append(int(processed(PROCESSORS[name], target.logits(tokens), tokens).argmax()))
        assert plain == tokens[len(PROMPT) :]


def test_drafts_of_the_target_itself_are_always_accepted_with_a_penalty():
    target = TableTarget(6, 60, sharpness=1.0)
    run = start_generation(
        target,
        sampling_drafter(target, 3),
        PROMPT,
        GenerationOptions(
            max_new_tokens=41,
            sampling=SamplingParams(),
            seed=4,
            rule="shared-noise",
            logits_processors=[RepetitionPenalty(1.5)],
        ),
    )
    assert len(list(run)) == 41 and run.statistics.accepted == run.statistics.drafted


@pytest.mark.parametrize("penalty", [0, -1, 1e-4, 2e3, float("inf"), float("nan"), "1"], ids=str)
def test_a_penalty_that_is_not_a_positive_number_raises_an_error(penalty):
    with pytest.raises(UserError, match="penalty must be from 0.001 to 1000"):
        RepetitionPenalty(penalty)
