"""N-gram drafts continue the latest occurrence of the longest repeated suffix."""

from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.drafters.ngram import NgramDrafter
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.sampling.params import SamplingParams
from tests.helpers.table_models import TableTarget, greedy_text


def drafts_after(drafter, tokens, depth=8):
    drafter.reset(tokens[0])
    drafter.commit(None, np.array(tokens[1:], np.int64))
    drafts, scores = drafter.draft(depth, None)
    assert scores is None
    return drafts


def expected_drafts(tokens, depth, longest, shortest):
    """Return the drafts found by trying every length and every place, one token at a time."""
    for repeated in range(longest, shortest - 1, -1):
        for place in range(len(tokens) - repeated - 1, -1, -1):
            if tokens[place : place + repeated] == tokens[len(tokens) - repeated :]:
                text = list(tokens)
                for index in range(min(depth, 2 * repeated)):
                    text.append(text[place + repeated + index])
                return text[len(tokens) :]
    return []


def test_a_repeating_text_is_drafted_to_any_length(own):
    found = drafts_after(own(NgramDrafter)(), [9, 1, 2, 3, 1, 2, 3, 1, 2, 3], 12)
    assert found == [1, 2, 3] * 4, (
        f"a draft that reaches the end of the text continues with itself: after 9 and three times "
        f"1, 2, 3 the drafts must be four times 1, 2, 3, got {found}"
    )


def test_no_more_than_the_maximum_length_is_compared(own):
    """The suffix 1 2 3 occurs at the start, but two tokens of it occur later, before the 8."""
    tokens = [1, 2, 3, 9, 2, 3, 8, 1, 2, 3]
    for longest, expected in ((3, [9, 2, 3, 8, 1, 2]), (2, [8, 1, 2, 3])):
        found = drafts_after(own(NgramDrafter)(max_length=longest, min_length=1), tokens)
        assert found == expected, (
            f"with max_length {longest}, after {tokens} the drafts must be {expected}, got {found}"
        )


def test_a_text_without_repetition_gets_no_drafts(own):
    for tokens in (list(range(50)), [3]):
        found = drafts_after(own(NgramDrafter)(), tokens)
        assert found == [], f"{len(tokens)} different tokens must give no drafts, got {found}"


@given(
    tokens=st.lists(st.sampled_from([0, 1, 0xD800, 70_000]), min_size=1, max_size=30),
    depth=st.integers(1, 12),
    more=st.integers(0, 4),
    shortest=st.integers(1, 4),
)
def test_drafts_continue_the_latest_occurrence_of_the_longest_repeated_suffix(
    own, tokens, depth, more, shortest
):
    longest = shortest + more
    found = drafts_after(own(NgramDrafter)(max_length=longest, min_length=shortest), tokens, depth)
    expected = expected_drafts(tokens, depth, longest, shortest)
    assert found == expected, f"after {tokens} the drafts must be {expected}, got {found}"


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=9),
    st.lists(st.booleans(), min_size=9),
)  # fmt: skip
def test_drafts_do_not_depend_on_earlier_calls(own, parts, asked):
    """The text is committed in parts, and the drafter updates its set only when it drafts."""
    drafter, text = own(NgramDrafter)(), [0]
    drafter.reset(0)
    for part, now in zip(parts, asked, strict=False):
        drafter.commit(None, np.array(part, np.int64))
        text += part
        if now:
            found, expected = drafter.draft(8, None)[0], expected_drafts(text, 8, 12, 3)
            assert found == expected, f"after {text} the drafts must be {expected}, got {found}"


@given(seed=st.integers(0, 1000), temperature=st.sampled_from([0.0, 0.7]))
def test_ngram_drafts_do_not_change_the_text(own, seed, temperature):
    target = TableTarget(3, 60, seed)
    options = dict(
        max_new_tokens=50, sampling=SamplingParams(temperature), seed=seed, rule="shared-noise"
    )
    plain = list(start_generation(target, None, [0, 1], GenerationOptions(**options)))
    drafter = own(NgramDrafter)(min_length=1)
    assert (
        list(start_generation(target, drafter, [0, 1], GenerationOptions(**options)))
        == plain
        == list(start_generation(target, drafter, [0, 1], GenerationOptions(**options)))
    )
    if temperature == 0:
        assert plain == greedy_text(target, [0, 1], 50)
