"""A text ends with the first stop token or the first token that completes a stop string.

The end does not depend on how rounds and drafts divide the text.
"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.stopping import Stop
from minimtp.errors import UserError
from tests.helpers.table_models import TableTarget, greedy_text

SPELLINGS = [b"a", b"b", b"ab", b"ba", b""]  # tokens of one and two bytes, and one without bytes


def spell(tokens):
    return b"".join(SPELLINGS[token] for token in tokens)


def first_end(tokens, stop_tokens, strings):
    """Return the number of tokens before the end, by trying every prefix from the shortest on."""
    for count in range(1, len(tokens) + 1):
        if tokens[count - 1] in stop_tokens or any(
            string in spell(tokens[:count]) for string in strings
        ):
            return count
    return None


texts = st.lists(st.integers(0, 4), max_size=40)
strings = st.lists(st.text("ab", min_size=1, max_size=5), max_size=2)
stop_tokens = st.sets(st.integers(0, 4), max_size=1)


@given(texts, strings, stop_tokens, st.lists(st.integers(1, 6), min_size=40, max_size=40))
def test_a_text_in_pieces_ends_at_the_same_token_as_the_whole_text(text, strings, tokens, sizes):
    stop, committed = Stop(tokens, strings, spell), 0
    expected = first_end(text, tokens, [string.encode() for string in strings])
    for size in sizes:
        piece = text[committed : committed + size]
        kept = stop.find(piece)
        if expected is not None and expected <= committed + len(piece):
            assert kept == expected - committed == stop.extend(piece[:kept])
            return
        assert kept is None and stop.extend(piece) is None
        committed += len(piece)


def drafting_well(target):
    """Return a drafter whose number of right tokens depends on the position."""

    def function(tokens, depth, rule):
        drafts = greedy_text(target, tokens, depth)
        right = len(tokens) * 7 % (depth + 1)
        return [*drafts[:right], *[(draft + 1) % 5 for draft in drafts[right:]]], None

    return FunctionDrafter(function, 6)


@given(seed=st.integers(0, 10**6), strings=strings, tokens=stop_tokens, drafted=st.booleans())
# The string begins before several tokens that have no bytes.
@example(seed=43753, strings=["bb"], tokens=set(), drafted=False)
def test_stop_strings_end_drafted_text_at_the_same_token_as_plain_text(
    seed, strings, tokens, drafted
):
    target, prompt = TableTarget(5, 64, seed), [0, 1]
    plain = greedy_text(target, prompt, 40)
    end = first_end(plain, tokens, [string.encode() for string in strings])
    drafter = drafting_well(target) if drafted else None
    options = GenerationOptions(
        max_new_tokens=40, stop_tokens=tokens, stop_strings=strings, decode_bytes=spell
    )
    run = start_generation(target, drafter, prompt, options)
    assert list(run) == plain[:end]
    assert run.reason == ("length" if end is None else "stop")
    assert target.cache == run.tokens[:-1]


def test_a_stop_string_in_the_prompt_does_not_end_the_text():
    target = TableTarget(5, 16, 3)
    text = list(
        start_generation(
            target,
            None,
            [0, 1, 0],
            GenerationOptions(max_new_tokens=8, stop_strings=["abab"], decode_bytes=spell),
        )
    )
    expected = greedy_text(target, [0, 1, 0], 8)
    assert text == expected[: first_end(expected, (), [b"abab"])]


def test_no_tokens_are_drafted_after_a_stop_string():
    target = TableTarget(5, 32, 1)
    drafter = FunctionDrafter(lambda tokens, depth, rule: ([0, 1, 0, 0][:depth], None), 4)
    run = start_generation(
        target,
        drafter,
        [3],
        GenerationOptions(max_new_tokens=20, stop_strings=["ab"], decode_bytes=spell),
    )
    rounds = list(run.rounds())
    assert all(
        spell(round_.drafts).find(b"ab") in (-1, len(spell(round_.drafts)) - 2) for round_ in rounds
    )


def test_a_stop_string_may_contain_bytes_that_are_not_utf8():
    assert Stop((), [b"\xff".decode("utf-8", "surrogateescape")], bytes).find([65, 255, 66]) == 2


def test_empty_stop_strings_and_strings_without_decode_bytes_are_rejected():
    with pytest.raises(UserError, match="a stop string is empty"):
        Stop((), ["end", ""], spell)
    with pytest.raises(ValueError, match="decode_bytes"):
        Stop((), ["end"])
