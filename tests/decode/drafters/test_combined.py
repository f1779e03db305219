"""A combined drafter drafts from a lookup or with heads. Neither changes the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.batch import row_seed, start_batch
from minimtp.decode.drafters.combined import HEADS, CombinedDrafter
from minimtp.decode.drafters.lookup import LENGTHS
from minimtp.decode.options import GenerationOptions, start_generation, start_text
from minimtp.decode.policy.registry import make_policy
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.states import DecodingStates
from tests.helpers.table_drafters import CheckingDrafter, guessing_drafter
from tests.helpers.table_models import TableTarget

KINDS = len(LENGTHS)


class Machine:
    """Costs of a machine on which a row takes `row` plain rounds."""

    def __init__(self, row=0.05):
        self.passes = [1e-5 * (1 + row * drafts) for drafts in range(16)]

    def at(self, length):
        return self.passes, 10**9

    def of(self, target):
        return self


def sevens(depth=5):
    return CheckingDrafter(lambda tokens, depth, rule: ([7] * depth, None), depth)


def after(drafter, tokens):
    """Commit the tokens one by one, as plain rounds do."""
    drafter.reset(tokens[0])
    for position, token in enumerate(tokens[1:]):
        drafter.commit(np.array([[position, tokens[position]]]), np.array([token]))
    return drafter


@pytest.mark.parametrize(
    ("repeated", "source"), [(1, HEADS), (2, 0), (3, 0), (4, 1), (8, 2), (15, 2), (16, 3)]
)
def test_the_source_of_a_draft_is_the_length_of_the_repetition_and_otherwise_the_heads(
    repeated, source
):
    text = list(range(30))
    drafter = after(CombinedDrafter(sevens()), [*text, *text[:repeated]])
    drafts, scores = drafter.draft_from([3] * KINDS + [2], 9, Greedy())
    assert drafter.source == source and scores is None
    assert drafts == ([7, 7] if source == HEADS else text[repeated : repeated + 3])


@pytest.mark.parametrize("heads", [True, False])
def test_a_source_with_depth_zero_is_left_out(heads):
    drafter = after(CombinedDrafter(sevens() if heads else None), [1, 2, 3, 1, 2])
    depths = [0, 5, 5, 5, *[4] * heads]
    assert drafter.draft_from(depths, 9, Greedy())[0] == ([7] * 4 if heads else [])
    assert drafter.source == (HEADS if heads else None)
    assert drafter.draft_from([0] * len(depths), 9, Greedy()) == ([], None)
    assert drafter.source is None


def test_heads_receive_what_was_committed_while_lookups_drafted():
    """`CheckingDrafter` compares the hidden states with the tokens."""
    heads = sevens()
    drafter = after(CombinedDrafter(heads), [1, 2, 3, 1, 2])
    assert heads.tokens == [1]
    drafter.draft_from([0, 0, 0, 0, 1], 1, Greedy())
    assert heads.tokens == [1, 2, 3, 1, 2]


def test_clones_share_neither_memory_nor_heads():
    drafter = after(CombinedDrafter(sevens()), [1, 2, 3, 4])
    clone = after(drafter.clone(), [9, 1, 2])
    clone.draft(2, Greedy())
    assert clone.source == HEADS
    after(drafter, [9, 1, 2]).draft(2, Greedy())
    assert drafter.source == 0


@given(
    seed=st.integers(0, 1000), temperature=st.sampled_from([0.0, 0.7]),
    heads=st.booleans(), memory=st.sampled_from([0, 20, 10_000]), row=st.sampled_from([0.01, 0.5]),
)  # fmt: skip
def test_texts_are_those_of_the_target_alone_also_with_a_memory_of_earlier_texts(
    seed, temperature, heads, memory, row
):
    target = TableTarget(3, 60, seed)
    drafter = CombinedDrafter(guessing_drafter(target, seed) if heads else None, memory)
    states = DecodingStates(target, drafter, lambda _: make_policy(Machine(row), drafter))
    for number in range(3):
        options = GenerationOptions(
            max_new_tokens=50, sampling=SamplingParams(temperature), seed=seed + number // 2
        )
        text = start_text(states, [0, 1], options)
        assert list(text) == list(start_generation(target, None, [0, 1], options))
    drafted = text.statistics
    assert sum(source.steps for source in drafted.sources) <= drafted.steps


@given(seed=st.integers(0, 1000), temperature=st.sampled_from([0.0, 1.0]))
def test_rows_of_a_batch_equal_texts_generated_alone(seed, temperature):
    target = TableTarget(3, 40, seed)
    drafter = CombinedDrafter(guessing_drafter(target, seed))
    options = dict(max_new_tokens=30, sampling=SamplingParams(temperature))
    states = DecodingStates(target, drafter, lambda _: make_policy(Machine(), drafter))
    prompts = [[0, 1], [2], [0, 1]]
    batch = start_batch(states, prompts, GenerationOptions(seed=seed, **options))
    list(batch)
    for row, prompt in enumerate(prompts):
        alone = GenerationOptions(seed=row_seed(seed, row), **options)
        assert batch.rows[row].tokens[len(prompt) :] == list(
            start_generation(target, None, prompt, alone)
        )


@given(seed=st.integers(0, 1000), rule=st.sampled_from(["token", "block", "match"]))
def test_with_fixed_depths_earlier_texts_do_not_change_a_text_with_any_rule(seed, rule):
    """Otherwise the same seed would give another text the second time."""
    target = TableTarget(3, 60, seed)
    drafter = CombinedDrafter(memory=10_000)
    options = GenerationOptions(
        max_new_tokens=50, sampling=SamplingParams(0.7), seed=seed, rule=rule, draft_depth=4
    )
    texts = [list(start_generation(target, drafter, [0, 1], options)) for _ in range(3)]
    assert texts[0] == texts[1] == texts[2]
