"""Loops and duplicates are dropped, unless the model writes hardly anything else."""

from minimtp.backend import numpy as np
from minimtp.training.self_generated.filters import SAME_BEGINNING, Filter
from minimtp.training.self_generated.stored import StoredText, Tally

RNG = np.random.default_rng(0)


def text(tokens=None, kind="code", prompt=(1, 2)):
    tokens = RNG.integers(0, 10**6, 60).tolist() if tokens is None else list(tokens)
    return StoredText(kind, list(prompt), tokens, False)


def test_loops_are_dropped_and_counted():
    good, loop = [text() for _ in range(3)], text([5] * 60, kind="chat")
    kept, kinds = Filter().part([*good, loop])
    assert kept == good
    assert kinds == {"code": Tally(3, 3, 180, 180), "chat": Tally(1, 0, 60, 0, loops=60)}


def test_a_second_answer_in_a_loop_is_enough():
    answers = RNG.integers(0, 10**6, 30).tolist() + [9] + [5] * 60
    loop = StoredText("chat", [1], answers, False, 30, 31)
    assert loop.new_tokens == 90
    kept, _ = Filter().part([text(), text(), loop])
    assert loop not in kept


def test_of_texts_that_begin_alike_only_the_first_of_a_kind_is_kept():
    first = text()
    alike = text(first.tokens[:SAME_BEGINNING] + text().tokens, prompt=(3,))
    nearly = text(first.tokens[: SAME_BEGINNING - 1] + text().tokens)
    other = text(alike.tokens, kind="prose", prompt=(4,))
    texts = [first, alike, nearly, other, text(), text()]
    kept, kinds = Filter().part(texts)
    assert kept == [t for t in texts if t is not alike]
    assert kinds["code"].duplicates == alike.new_tokens


def test_duplicates_of_earlier_parts_are_dropped_whether_they_were_just_made_or_read():
    before = [text() for _ in range(4)]
    again = [*before[:2], text(), text()]
    made, read = Filter(), Filter()
    made.part(before)
    read.add(before)
    assert made.part(again)[0] == read.part(again)[0] == again[2:]


def test_a_model_that_only_loops_or_repeats_itself_keeps_what_it_writes():
    loops = [text([number] * 60) for number in range(20)]
    assert Filter().part(loops)[0] == loops
    same = text()
    assert Filter().part([same] * 20)[0] == [same] * 20
    half = [text(), *[text([number] * 60) for number in range(2)]]
    assert Filter().part(half)[0] == half[:1]
