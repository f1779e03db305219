"""A text ends with the first token that completes a stop string or is a stop token, wherever rounds and drafts divide it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.options import start_generation
from minimtp.decode.stopping import Stop
from minimtp.errors import UserError
from tests.table_models import TableTarget, greedy_text

SPELLINGS = [b"a", b"b", b"ab", b"ba", b""]  # tokens of several bytes, and one of none


def spell(tokens):
    return b"".join(SPELLINGS[token] for token in tokens)


def first_end(tokens, stop_tokens, strings):
    """How many tokens stand, by trying every prefix from the shortest on."""
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
def test_a_text_in_any_pieces_ends_where_the_whole_text_does(text, strings, tokens, sizes):
    stop, committed = Stop(tokens, strings, spell), 0
    expected = first_end(text, tokens, [string.encode() for string in strings])
    for size in sizes:
        piece = text[committed : committed + size]
        kept = stop.find(piece)
        if expected is not None and expected <= committed + len(piece):
            assert kept == expected - committed and stop.extend(piece[:kept])
            return
        assert kept is None and not stop.extend(piece)
        committed += len(piece)


def drafting_well(target):
    """Drafts of changing length that are right for a while."""

    def function(tokens, wanted, rule):
        drafts = greedy_text(target, tokens, wanted)
        right = len(tokens) * 7 % (wanted + 1)
        return [*drafts[:right], *[(draft + 1) % 5 for draft in drafts[right:]]], None

    return FunctionDrafter(function, 6)


@given(seed=st.integers(0, 10**6), strings=strings, tokens=stop_tokens, drafted=st.booleans())
def test_stop_strings_cut_drafted_text_where_they_cut_plain_text(seed, strings, tokens, drafted):
    target, prompt = TableTarget(5, 64, seed), [0, 1]
    plain = greedy_text(target, prompt, 40)
    end = first_end(plain, tokens, [string.encode() for string in strings])
    run = start_generation(
        target, drafting_well(target) if drafted else None, prompt, max_new_tokens=40,
        stop_tokens=tokens, stop_strings=strings, decode_bytes=spell,
    )  # fmt: skip
    assert list(run) == plain[:end]
    assert run.reason == ("length" if end is None else "stop")
    assert target.cache == run.tokens[:-1]


def test_the_prompt_does_not_count_as_having_said_a_stop_string():
    target = TableTarget(5, 16, 3)
    text = list(
        start_generation(
            target, None, [0, 1, 0], max_new_tokens=8, stop_strings=["abab"], decode_bytes=spell
        )
    )
    expected = greedy_text(target, [0, 1, 0], 8)
    assert text == expected[: first_end(expected, (), [b"abab"])]


def test_nothing_is_drafted_behind_a_stop_string():
    target = TableTarget(5, 32, 1)
    drafter = FunctionDrafter(lambda tokens, wanted, rule: ([0, 1, 0, 0][:wanted], None), 4)
    run = start_generation(
        target, drafter, [3], max_new_tokens=20, stop_strings=["ab"], decode_bytes=spell
    )
    rounds = list(run.rounds())
    assert all(
        spell(round_.drafts).find(b"ab") in (-1, len(spell(round_.drafts)) - 2) for round_ in rounds
    )


def test_a_stop_string_may_hold_bytes_that_are_no_text():
    assert Stop((), [b"\xff".decode("utf-8", "surrogateescape")], bytes).find([65, 255, 66]) == 2


def test_stop_strings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="a stop string is empty"):
        Stop((), ["end", ""], spell)
    with pytest.raises(ValueError, match="decode_bytes"):
        Stop((), ["end"])
