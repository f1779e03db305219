"""Each row of a batch is identical to the text generated alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.decode.batch import MAX_RUNNING, row_seed, start_batch
from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.states import DecodingStates
from minimtp.errors import UserError
from tests.helpers.table_models import TableTarget, greedy_text

prompts = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=5)


def half_right(target):
    def function(tokens, depth, rule):
        drafts = greedy_text(target, tokens, depth)
        right = len(tokens) % 4
        return [*drafts[:right], *((draft + 1) % 5 for draft in drafts[right:])], None

    return FunctionDrafter(function, 4)


@given(
    prompts=prompts,
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.0, 0.8]),
    stop=st.sets(st.integers(0, 4), max_size=1),
    rule=st.sampled_from(["shared-noise", "token", "block", "match"]),
    context_length=st.integers(6, 30),
)
def test_each_row_equals_the_text_generated_alone_and_ends_for_the_same_reason(
    prompts, seed, temperature, stop, rule, context_length
):
    target = TableTarget(5, context_length, seed, sharpness=1.0)
    options = dict(
        max_new_tokens=12, sampling=SamplingParams(temperature), stop_tokens=stop, rule=rule
    )
    batch = start_batch(
        DecodingStates(target, half_right(target)), prompts, GenerationOptions(seed=seed, **options)
    )
    streamed = [[] for _ in prompts]
    for row, token in batch:
        streamed[row].append(token)
    for row, prompt in enumerate(prompts):
        alone = start_generation(
            target.clone(),
            half_right(target),
            prompt,
            GenerationOptions(seed=row_seed(seed, row), **options),
        )
        assert streamed[row] == list(alone)
        assert batch.rows[row].tokens == alone.tokens and batch.rows[row].reason == alone.reason
        counts, expected = batch.rows[row].statistics, alone.statistics
        assert (counts.steps, counts.drafts_accepted) == (expected.steps, expected.drafts_accepted)


def test_a_row_does_not_depend_on_the_other_rows():
    target = TableTarget(5, 40, sharpness=0.7)
    options = dict(max_new_tokens=20, sampling=SamplingParams(1.0), rule="shared-noise", seed=3)

    def third_row(*neighbours):
        batch = start_batch(
            DecodingStates(target, half_right(target)),
            [*neighbours, [1, 2]],
            GenerationOptions(**options),
        )
        list(batch)
        return batch.rows[2].tokens

    assert third_row([0], [4, 4, 4]) == third_row([3, 2, 1, 0], [2])


def test_rows_with_the_same_prompt_are_different_samples():
    batch = start_batch(
        DecodingStates(TableTarget(5, 40, sharpness=0.5), None),
        [[1, 2]] * 4,
        GenerationOptions(max_new_tokens=20, sampling=SamplingParams(1.0)),
    )
    list(batch)
    assert len({tuple(row.tokens) for row in batch.rows}) == 4


def test_rows_alternate_until_each_has_finished():
    target = TableTarget(5, 40)
    batch = start_batch(
        DecodingStates(target, None), [[0], [1] * 38, [2]], GenerationOptions(max_new_tokens=6)
    )
    rows = [row for row, _ in batch.rounds()]
    assert rows == [0, 1, 2] * 3 + [0, 2] * 3
    assert [row.reason for row in batch.rows] == ["length", "context", "length"]


@given(st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_row_seeds_are_valid_seeds_and_row_0_has_the_seed_of_the_batch(seed, row):
    assert 0 <= row_seed(seed, row) < 2**64
    assert row_seed(seed, 0) == seed != row_seed(seed, row + 1)


def test_a_batch_without_prompts_or_with_a_bad_prompt_is_rejected_before_any_work():
    target = TableTarget()
    with pytest.raises(UserError, match="prompts are empty"):
        start_batch(DecodingStates(target, None), [], GenerationOptions(max_new_tokens=3))
    with pytest.raises(UserError, match="the prompt is empty"):
        start_batch(DecodingStates(target, None), [[1], []], GenerationOptions(max_new_tokens=3))
    with pytest.raises(
        UserError, match="a tree of 1000000000000 drafts is larger than the model's context"
    ):
        start_batch(
            DecodingStates(target, half_right(target)),
            [[1], [2]],
            GenerationOptions(max_new_tokens=3, tree=10**12),
        )
    assert target.length == 0


@pytest.mark.parametrize("count", [1, 16, 40])
def test_a_long_list_of_prompts_needs_no_more_caches_than_texts_that_alternate(count):
    target = TableTarget(5, 40)
    states, running, most = DecodingStates(target, half_right(target)), set(), 0
    batch = start_batch(states, [[1, 2]] * count, GenerationOptions(max_new_tokens=9))
    for row, _ in batch.rounds():
        running.add(row)
        running -= {r for r in running if batch.rows[r].reason is not None}
        most = max(most, len(running))
    assert most <= MAX_RUNNING and (count < MAX_RUNNING or most > MAX_RUNNING // 2)
    assert all(row.statistics.emitted == 9 for row in batch.rows)
