"""A text ends when the model runs in a loop, if its request says so."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.batched.loops import EVERY, WINDOWS, ends_in_a_loop, is_repetitive
from minimtp.decode.batched.texts import TextRequest
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.decode.batched.test_texts import generate_one_by_one, generate_texts, random_model

SHORT, LONG = WINDOWS


def end_of(tokens):
    """Return after how many tokens a text ends, None if it goes on."""
    return next((n for n in range(len(tokens) + 1) if ends_in_a_loop(tokens[:n])), None)


def test_a_text_is_repetitive_if_few_of_its_runs_of_four_tokens_are_distinct():
    rng = np.random.default_rng(0)
    assert not is_repetitive(rng.integers(0, 100, 200).tolist())
    assert not is_repetitive([]) and not is_repetitive([1, 1, 1])
    assert is_repetitive([1, 2, 3] * 40)
    begin = rng.integers(0, 100, 90).tolist()
    assert not is_repetitive(begin + [7] * 100) and is_repetitive(begin + [7] * 200)


@given(st.lists(st.integers(), unique=True, max_size=300))
def test_a_text_without_repetitions_goes_on(tokens):
    assert end_of(tokens) is None


@given(begin=st.integers(0, 200), period=st.integers(1, 45))
def test_a_loop_of_up_to_45_tokens_ends_a_text_within_two_windows(begin, period):
    tokens = list(range(begin)) + [-1 - n % period for n in range(2 * LONG + period)]
    end = end_of(tokens)
    assert begin < end <= max(begin, LONG) + LONG + EVERY
    if period <= 12:
        assert end <= begin + SHORT + EVERY


def test_a_loop_of_60_tokens_is_not_found():
    assert end_of(list(range(60)) * 5) is None


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_text_in_a_loop_is_the_beginning_of_the_whole_text(one_by_one, monkeypatch):
    model = random_model()
    for block in model.model.trunk.blocks:  # what is left repeats itself when it is greedy
        for _, parameter in block.named_parameters():
            parameter.data *= 0.1
    samplings = GREEDY, SamplingParams(3.0)
    whole = [TextRequest([n], 80, samplings[n % 2], n) for n in range(30)]
    requests = [replace(request, ends_in_loops=True) for request in whole]
    monkeypatch.setattr(ByteTokenizer, "end_tokens", ())
    if one_by_one:
        found = generate_one_by_one(model, requests)
    else:
        found = generate_texts(model, requests, threads=2)
    ended = 0
    for text, expected in zip(found, generate_texts(model, whole), strict=True):
        end = end_of(expected.tokens)
        ended += end is not None
        assert text.tokens == expected.tokens[:end] and not text.ended
    assert 0 < ended < len(found)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_the_question_between_two_answers_does_not_count_as_a_loop(one_by_one, monkeypatch):
    model = random_model()
    first = [generate_texts(model, [TextRequest([n], 3)])[0].tokens[2] for n in range(20)]
    monkeypatch.setattr(ByteTokenizer, "end_tokens", tuple(first))
    requests = [
        TextRequest([n], 40, follow_up=(first[n], *[7] * 40), ends_in_loops=True) for n in range(20)
    ]
    if one_by_one:
        found = generate_one_by_one(model, requests)
    else:
        found = generate_texts(model, requests)
    whole = generate_texts(model, [replace(request, ends_in_loops=False) for request in requests])
    followed = 0
    for text, expected in zip(found, whole, strict=True):
        if text.first_answer is not None:
            followed += 1
            begin = text.first_answer + 40  # of the second answer
            end = end_of(expected.tokens[begin:])
            assert text.tokens == expected.tokens[: None if end is None else begin + end]
    assert followed
