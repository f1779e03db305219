"""How much of a text repeats itself."""

import pytest

from minimtp.backend import numpy as np
from minimtp.compare.pretrained import measurement


@pytest.fixture
def repetition(own):
    return own(measurement.repetition)


def check(found, repeated, total, new):
    """new: the new tokens, whose n-grams are `total`, and of which `repeated` occurred earlier."""
    assert found == pytest.approx(repeated / total), (
        f"of the {total} n-grams of the new tokens {new}, {repeated} occurred earlier among them: "
        f"expected {repeated / total:.3f}, got {found:.3f}"
    )


def test_new_tokens_count_and_those_of_the_prompt_do_not(repetition):
    prompt = [1, 2, 3, 4, 1, 2, 3, 4]
    for new, repeated in (([5, 6, 7, 8, 9], 0), ([5, 6, 7, 8] * 2, 1), ([1, 2, 3, 4], 0)):
        check(repetition([prompt + new], [np.array(prompt)]), repeated, len(new) - 3, new)


def test_every_occurrence_but_the_first_is_a_repetition(repetition):
    for new, repeated in (([7] * 9, 5), ([5, 6, 7, 8] * 3, 5)):
        check(repetition([[0, *new]], [[0]]), repeated, len(new) - 3, new)


def test_four_tokens_must_repeat_in_their_order(repetition):
    for new in ([5, 6, 7, 1, 5, 6, 7, 2], [5, 6, 7, 8, 8, 7, 6, 5]):
        check(repetition([[0, *new]], [[0]]), 0, len(new) - 3, new)


def test_tokens_are_numbers_and_not_digits_or_bytes(repetition):
    for first, second in (
        ([1, 23, 4, 5], [12, 3, 4, 5]),
        ([15, 6, 7, 8], [5, 6, 7, 8]),
        ([5, 6, 7, 80], [5, 6, 7, 8]),
        ([257, 2, 3, 4], [1, 2, 3, 4]),
    ):
        assert repetition([[0, *first, *second]], [[0]]) == 0, f"{first} is not {second}"


def test_a_repetition_of_another_text_is_none(repetition):
    text = [0, 5, 6, 7, 8]
    assert repetition([text, text], [[0], [0]]) == 0


def test_long_texts_count_for_more_than_short_ones(repetition):
    found = repetition([[0, 1, 2, 3, 4], [0, *[7] * 9]], [[0], [0]])
    assert found == pytest.approx(5 / 7), (
        "one text has 1 n-gram and no repetition, the other one 6 with 5 repetitions: "
        f"together 5 of 7 = {5 / 7:.3f}, got {found:.3f}"
    )


def test_texts_that_are_too_short_for_an_n_gram_are_no_obstacle(repetition):
    assert repetition([[1, 2, 3]], [[1, 2]]) == 0, "one new token makes no n-gram: the share is 0"
    found = repetition([[1, 2], [0, *[7] * 9]], [[1, 2], [0]])
    assert found == pytest.approx(5 / 6), (
        "one text has no new token, the other one has 6 n-grams with 5 repetitions: "
        f"expected 5 / 6 = {5 / 6:.3f}, got {found:.3f}"
    )
    assert repetition([], []) == 0, "without any text, the share is 0"
