"""The decoding loop at temperature 0 on table models: the text, its end, the cache and the
statistics.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.options import GenerationOptions, start_generation
from tests.helpers.table_drafters import CheckingDrafter, constant_drafter, guessing_drafter
from tests.helpers.table_models import TableTarget, greedy_text

PROMPT = [1, 0, 2]


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    context_length=st.integers(3, 30),
    max_new_tokens=st.integers(1, 30),
    depth=st.integers(0, 4),
    right=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    stop=st.sets(st.integers(0, 4), max_size=1),
)
def test_greedy_text_with_drafts_has_the_end_cache_and_statistics_of_plain_decoding(
    seed, context_length, max_new_tokens, depth, right, stop
):
    target = TableTarget(5, context_length, seed)
    drafter = guessing_drafter(target, seed, right)
    run = start_generation(
        target,
        drafter,
        PROMPT,
        GenerationOptions(max_new_tokens=max_new_tokens, draft_depth=depth, stop_tokens=stop),
    )
    text = []
    for round_ in run.rounds():
        text += round_.tokens
        assert target.cache == run.tokens[:-1], (
            "the cache must hold all tokens except the pending one"
        )
        assert run.tokens == [*PROMPT, *text] and round_.position == len(run.tokens) - len(
            round_.tokens
        )
        assert round_.tokens[: round_.accepted] == round_.drafts[: round_.accepted]
        assert depth == 0 or run.reason is not None or drafter.tokens == run.tokens
        assert len(round_.drafts) <= depth

    expected = greedy_text(target, PROMPT, min(max_new_tokens, context_length + 1 - len(PROMPT)))
    reason = "length" if len(expected) == max_new_tokens else "context"
    for index, token in enumerate(expected):
        if token in stop:
            expected, reason = expected[: index + 1], "stop"
            break
    assert (text, run.reason) == (expected, reason)

    counts = run.statistics
    assert counts.emitted == len(text) and counts.prompt_tokens == len(PROMPT)
    assert sum(counts.drafts_of_length) == sum(counts.drafts_accepted) == counts.steps
    assert all(
        accepted <= drafted
        for accepted, drafted in zip(counts.accepted, counts.drafted, strict=True)
    )
    ended_by_a_draft = reason == "stop" and round_.accepted == len(round_.tokens)
    assert counts.emitted == 1 + counts.steps + sum(counts.accepted) - ended_by_a_draft
    if depth == 0:
        assert counts.steps == len(text) - 1 and counts.tokens_per_step == 1.0


@pytest.mark.parametrize(
    ("wrong_at", "tokens_per_round"),
    [(None, 4), (0, 1), (1, 2), (2, 3)],
    ids=["all right", "first wrong", "middle wrong", "last wrong"],
)
def test_a_wrong_draft_keeps_the_drafts_before_it_and_is_corrected(wrong_at, tokens_per_round):
    target = TableTarget(seed=3)

    def function(tokens, depth, rule):
        drafts = greedy_text(target, tokens, depth)
        if wrong_at is not None and wrong_at < depth:
            drafts[wrong_at] = (drafts[wrong_at] + 1) % 4
        return drafts, None

    run = start_generation(
        target, CheckingDrafter(function, 3), PROMPT, GenerationOptions(max_new_tokens=13)
    )
    rounds = list(run.rounds())
    assert all(len(round_.tokens) == tokens_per_round for round_ in rounds[1:4])
    assert run.tokens[len(PROMPT) :] == greedy_text(target, PROMPT, 13)


@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    max_rows=st.integers(1, 12),
    seed=st.integers(0, 9),
)
def test_a_prompt_fed_in_pieces_is_continued_like_one_fed_at_once(prompt, max_rows, seed):
    """The drafter checks that it receives the same rows. No piece is longer than `max_rows`."""
    texts = []
    for rows in (max_rows, len(prompt)):
        target = TableTarget(seed=seed)
        target.max_rows, fed, forward = rows, [], target.forward
        target.forward = lambda tokens, fed=fed, forward=forward: (
            fed.append(len(tokens)),
            forward(tokens),
        )[1]
        run = start_generation(
            target, guessing_drafter(target, seed), prompt, GenerationOptions(max_new_tokens=6)
        )
        texts.append(list(run))
        pieces = -(-len(prompt) // rows)
        assert sum(fed[:pieces]) == len(prompt) and max(fed[:pieces]) <= rows
    assert texts[0] == texts[1]


class RecitingTarget(TableTarget):
    """Always predicts the same text, whatever tokens were fed."""

    def __init__(self, text, **options):
        super().__init__(**options)
        self.text = text

    def logits(self, prefix):
        return np.eye(self.vocabulary_size)[self.text[len(prefix)]]


@pytest.mark.parametrize("drafts", [[1, 3, 2, 0], [1, 3], [1], [1, 2], [0], []], ids=str)
def test_a_stop_token_is_the_last_token_at_any_position_of_a_draft(drafts):
    target = RecitingTarget([0, 0, 1, 3, 2, 0, 1, 1], vocabulary_size=4, context_length=8)
    run = start_generation(
        target,
        constant_drafter(*drafts, depth=4),
        [0],
        GenerationOptions(max_new_tokens=7, stop_tokens=[3]),
    )
    rounds = list(run.rounds())
    assert run.tokens == [0, 0, 1, 3] and run.reason == "stop"
    assert target.cache == [0, 0, 1], "the stop token is committed and pending"
    stop_is_drafted = drafts[1:2] == [3]
    assert rounds[1].drafts == (drafts[:2] if stop_is_drafted else drafts)


def test_a_drafted_stop_token_that_is_rejected_does_not_end_the_text():
    target = RecitingTarget([0, 0, 1, 1, 2, 2], vocabulary_size=4, context_length=6)
    run = start_generation(
        target, constant_drafter(3, 3), [0], GenerationOptions(max_new_tokens=4, stop_tokens=[3])
    )
    assert list(run) == [0, 1, 1, 2] and run.reason == "length"


def test_stop_takes_precedence_over_length_and_length_over_context():
    def reason(stop, max_new_tokens, context_length):
        run = start_generation(
            TableTarget(1, context_length),
            None,
            [0],
            GenerationOptions(max_new_tokens=max_new_tokens, stop_tokens=stop),
        )
        return len(list(run)), run.reason

    assert reason([0], 1, 1) == (1, "stop")
    assert reason([], 1, 1) == (1, "length")
    assert reason([], 2, 1) == (1, "context")


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_a_prompt_as_long_as_the_context_is_continued_by_one_token(depth):
    target = TableTarget(context_length=6)
    prompt = [0, 1, 2, 3, 0, 1]
    run = start_generation(
        target,
        guessing_drafter(target),
        prompt,
        GenerationOptions(max_new_tokens=9, draft_depth=depth),
    )
    assert list(run) == greedy_text(target, prompt, 1) and run.reason == "context"


def test_one_new_token_takes_one_pass_and_no_draft():
    target, drafter = TableTarget(), constant_drafter(0, 1)
    run = start_generation(target, drafter, PROMPT, GenerationOptions(max_new_tokens=1))
    assert len(list(run.rounds())) == 1 and run.reason == "length"
    assert run.statistics.steps == 0 and run.statistics.tokens_per_step == 1.0
    assert run.statistics.tokens_per_second == 0.0


def test_the_prompt_is_fed_once_and_each_round_feeds_the_pending_token_and_the_drafts():
    fed, target = [], RecitingTarget([0, 0, 1, 1, 2, 2, 3], vocabulary_size=4, context_length=9)
    forward = target.forward
    target.forward = lambda tokens: (fed.append(tokens.tolist()), forward(tokens))[1]
    list(
        start_generation(
            target, constant_drafter(1, 2, 0), [0, 0], GenerationOptions(max_new_tokens=4)
        )
    )
    assert fed == [
        [0, 0],
        [1, 1, 2],
    ]  # 4 - 1 - 1 drafts, because the context has no room for the third


def test_tokens_are_computed_only_when_they_are_requested():
    target = TableTarget()
    run = start_generation(
        target, guessing_drafter(target, right=1.0), PROMPT, GenerationOptions(max_new_tokens=12)
    )
    assert target.length == 0
    first = next(run)
    assert target.length == len(PROMPT) and run.statistics.emitted == 1
    second = next(run)
    assert [first, second, *run] == greedy_text(target, PROMPT, 12)
    assert list(run) == [] and run.reason == "length"


def test_a_new_text_starts_from_an_empty_cache():
    target = TableTarget()
    first = list(
        start_generation(
            target, guessing_drafter(target), PROMPT, GenerationOptions(max_new_tokens=8)
        )
    )
    assert (
        list(
            start_generation(
                target, guessing_drafter(target), PROMPT, GenerationOptions(max_new_tokens=8)
            )
        )
        == first
    )


@pytest.mark.parametrize(
    "drafts", [[4], [-1], [0, 0, 0, 0]], ids=["unknown token", "negative token", "too many"]
)
def test_a_drafter_that_returns_invalid_drafts_raises_an_error_instead_of_changing_the_text(drafts):
    drafter = FunctionDrafter(lambda tokens, depth, rule: (drafts, None), 3)
    with pytest.raises(ValueError, match="FunctionDrafter gave"):
        list(start_generation(TableTarget(), drafter, PROMPT, GenerationOptions(max_new_tokens=20)))
