"""A lookup finds the latest place where the end of the text occurred before, in every text that it
remembers.
"""

from hypothesis import given
from hypothesis import strategies as st

from minimtp.decode.drafters.lookup import LENGTHS, NOT_FOUND, Lookup
from minimtp.training.recipe import MAX_VOCABULARY

tokens = st.sampled_from([0, 1, 0xD800, MAX_VOCABULARY - 1])
texts = st.lists(st.lists(tokens, min_size=1, max_size=40), min_size=1, max_size=4)


def lookup_of(texts, memory=10**6):
    lookup = Lookup(memory)
    for text in texts:
        lookup.start()
        for token in text:
            lookup.extend([token])
    return lookup


def expected_place(texts, kind, own_text):
    """Return (number of the text, place in it) by trying every text and every place, the latest
    first; None if there is none.
    """
    end = texts[-1][len(texts[-1]) - LENGTHS[kind] :]
    if len(end) < LENGTHS[kind]:
        return None
    for number in range(len(texts) - 1, len(texts) - 2 if own_text else -1, -1):
        for place in range(len(texts[number]) - 1, len(end) - 1, -1):
            if texts[number][place - len(end) : place] == end:
                return number, place
    return None


@given(texts=texts, own_text=st.booleans())
def test_a_lookup_finds_the_latest_place_after_the_longest_class_of_repetition(texts, own_text):
    kind, place = lookup_of(texts).find(own_text)
    expected = [expected_place(texts, kind, own_text) for kind in range(len(LENGTHS))]
    assert kind == max((k for k, found in enumerate(expected) if found), default=NOT_FOUND)
    if kind != NOT_FOUND:
        number, within = expected[kind]
        assert place == sum(map(len, texts[:number])) + within


@given(texts=texts, count=st.integers(1, 20))
def test_drafts_are_the_tokens_after_the_place_and_repeat_beyond_the_end_of_the_text(texts, count):
    lookup, joined = lookup_of(texts), sum(texts, [])
    kind, place = lookup.find()
    if kind != NOT_FOUND:
        drafts = lookup.following(place, count)
        for draft in drafts:
            assert draft == joined[place]
            joined, place = [*joined, draft], place + 1
        assert len(drafts) == count


@given(texts=texts, cuts=st.lists(st.integers(0, 40), max_size=3))
def test_a_text_in_pieces_is_looked_up_like_one_in_single_tokens(texts, cuts):
    whole = Lookup(10**6)
    for text in texts:
        whole.start()
        places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
        for start, stop in zip(places, places[1:], strict=False):
            whole.extend(text[start:stop])
    assert whole.find() == lookup_of(texts).find()


@given(texts=st.lists(st.lists(tokens, min_size=1, max_size=40), min_size=1, max_size=12))
def test_earlier_texts_hold_at_most_the_memory(texts):
    lookup = Lookup(30)
    for text in texts:
        lookup.start()
        assert lookup._start <= 30
        assert all(len(places) <= 30 for places in lookup._places)
        lookup.extend(text)


def test_without_memory_only_the_running_text_is_searched():
    lookup = lookup_of([[1, 2, 3, 4, 5], [1, 2]], memory=0)
    assert lookup.find()[0] == NOT_FOUND
    lookup.extend([9, 1, 2])
    assert lookup.find() == (0, 2) and lookup.following(2, 3) == [9, 1, 2]
