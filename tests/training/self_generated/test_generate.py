"""Generating text: the same text however it is interrupted, in the shares of the mixture."""

import errno
from dataclasses import replace

import pytest

from minimtp.backend import numpy as np
from minimtp.decode.batched.request import GeneratedText
from minimtp.decode.batched.texts import TextGenerator
from minimtp.errors import UserError
from minimtp.files import writing
from minimtp.training.data.corpus import Corpus
from minimtp.training.data.split import is_held_out
from minimtp.training.self_generated import filters, generate
from minimtp.training.self_generated.mixture import parse_mixture
from minimtp.training.self_generated.requests import Requests
from minimtp.training.self_generated.stored import read_texts
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.training.self_generated import helpers
from tests.training.self_generated.helpers import (
    ASSISTANT,
    END,
    SHORT,
    USER,
    ChatBytes,
    contents,
    generated,
    model_with,
)

SMALLER = replace(SHORT, part=180)  # parts of few texts


@pytest.fixture(scope="module")
def chat():
    return model_with(ChatBytes())


def test_the_same_model_and_seed_generate_the_same_files_with_any_number_of_threads(chat, tmp_path):
    found = [
        contents((generated(chat, tmp_path / out, threads=threads), tmp_path / out)[1])
        for out, threads in (("a", 1), ("b", 2))
    ]
    assert found[0] == found[1] and len(found[0]) > 3  # the setting and three parts
    other = generated(chat, tmp_path / "c", seed=1)
    assert contents(tmp_path / "c") != found[0]
    assert other.kept >= 900


def test_a_stop_at_any_write_or_in_any_part_leaves_text_that_the_same_command_completes(
    tmp_path, monkeypatch
):
    model = model_with(ByteTokenizer())

    def generated(out):
        mixture = parse_mixture("code=60,edit=40")
        return helpers.generated(model, out, 400, mixture=mixture, lengths=SMALLER)

    generated(tmp_path / "whole")
    whole, move, work = (
        contents(tmp_path / "whole"),
        writing.move_into_place,
        TextGenerator.generate,
    )
    writes = []
    monkeypatch.setattr(writing, "move_into_place", lambda *a: (writes.append(0), move(*a))[1])
    generated(tmp_path / "counted")
    assert len(writes) == len(whole)

    full = OSError(errno.ENOSPC, "No space left on device")
    for number in range(len(whole)):
        for name, error in (("full disk", full), ("kill", KeyboardInterrupt())):
            out = tmp_path / f"{name} {number}"
            with monkeypatch.context() as patched:
                patched.setattr(writing, "move_into_place", stops_at(number, move, error))
                with pytest.raises((UserError, KeyboardInterrupt)):
                    generated(out)
            assert generated(out).kept >= 400
            assert contents(out) == whole
    for number in range(len(whole) - 1):
        out = tmp_path / f"ctrl-c {number}"
        with monkeypatch.context() as patched:
            patched.setattr(TextGenerator, "generate", stops_at(number, work, KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt, match="run the same command again"):
                generated(out)
        generated(out)
        assert contents(out) == whole


def test_a_damaged_or_missing_part_is_named_and_generated_again(tmp_path):
    model = model_with(ByteTokenizer())

    def generated(**options):
        mixture = parse_mixture("code=1")
        helpers.generated(model, tmp_path / "out", 400, mixture=mixture, lengths=SMALLER, **options)

    generated()
    whole = contents(tmp_path / "out")
    for name in [name for name in whole if name.startswith("part-")]:
        for damage in ("cut", "changed", "missing"):
            path, said = tmp_path / "out" / name, []
            content = whole[name]
            digit = content.index(b'"tokens":[') + 10
            if damage == "cut":
                path.write_bytes(content[: len(content) // 2])
            elif damage == "changed":
                path.write_bytes(content[:digit] + b"1" + content[digit:])
            else:
                path.unlink()
            generated(report=said.append)
            assert contents(tmp_path / "out") == whole
            assert damage == "missing" or (
                len(said) == 1 and name in said[0] and "generated again" in said[0]
            )


def test_more_tokens_add_to_a_folder_and_fewer_change_nothing(chat, tmp_path):
    few = generated(chat, tmp_path, 300)
    before = contents(tmp_path)
    assert generated(chat, tmp_path, 100).kept == few.kept and contents(tmp_path) == before
    more = generated(chat, tmp_path, 1200)
    assert more.kept >= 1200 and before.items() <= contents(tmp_path).items()


def test_a_damaged_part_of_a_folder_that_was_extended_is_generated_as_it_was(chat, tmp_path):
    """Its size depends on how many tokens were asked for when it was written."""
    for tokens in (200, 1500):
        generated(chat, tmp_path, tokens)
    whole = contents(tmp_path)
    for name in [name for name in whole if name.startswith("part-")][:-1]:
        (tmp_path / name).write_bytes(whole[name][:-9])
        generated(chat, tmp_path, 1500)
        assert contents(tmp_path) == whole, name


def stops_at(number, function, error):
    """Return the function, but its call with this number raises the error."""
    calls = iter(range(10**6))

    def stopping(*arguments, **options):
        if next(calls) == number:
            raise error
        return function(*arguments, **options)

    return stopping


def test_after_two_damaged_parts_no_text_is_there_twice(chat, tmp_path, monkeypatch):
    for tokens in (200, 1500):
        generated(chat, tmp_path, tokens)
    said = []
    for number in (0, 1):
        path = tmp_path / f"part-{number:05}.json"
        path.write_bytes(path.read_bytes()[:-9])
    generate_part = TextGenerator.generate
    monkeypatch.setattr(TextGenerator, "generate", stops_at(2, generate_part, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        generated(chat, tmp_path, 1500)
    with pytest.raises(UserError, match="does not continue the part before it"):
        read_texts(tmp_path, chat.tokenizer)
    monkeypatch.setattr(TextGenerator, "generate", generate_part)
    texts = generated(chat, tmp_path, 1500, report=said.append).texts
    assert any("does not continue the part before it" in line for line in said)
    prompts = [(text.kind, tuple(text.prompt), tuple(text.tokens)) for text in texts]
    assert len(set(prompts)) == len(prompts)


def test_the_tokens_that_were_generated_are_those_of_the_model_alone(chat, tmp_path, monkeypatch):
    """And not those of a user's second message, which is part of the text."""
    numbers = iter(range(10**6))

    def answered(generator, requests, *others):
        texts = []
        for request in requests:
            answer = [next(numbers) % 256 for _ in range(12)]
            between = list(request.follow_up[1:])
            first = 13 if between else None
            tokens = [*answer, END, *between, *answer[::-1], END] if between else [*answer, END]
            texts.append(GeneratedText(tokens, True, first))
        return texts

    monkeypatch.setattr(TextGenerator, "generate", answered)
    requests = Requests(chat.tokenizer, chat.config.context_length, 0, SHORT)
    result = generate.write_self_generated(chat, requests, helpers.MIXTURE, tmp_path, 900)
    texts = result.texts.texts
    assert any(text.second_answer for text in texts)
    expected = sum(13 if text.second_answer is None else 26 for text in texts)
    assert result.tokens == expected


@pytest.mark.parametrize(
    "change, words",
    [
        ("seed", "another --seed"),
        ("mixture", "another --mix"),
        ("lengths", "another length of the texts"),
        ("model", "another model"),
    ],
)
def test_a_folder_of_other_text_is_refused_and_stays_as_it_is(chat, tmp_path, change, words):
    generated(chat, tmp_path, 200)
    before, changed = contents(tmp_path), {}
    model = model_with(ChatBytes(), seed=1) if change == "model" else chat
    if change != "model":
        changed = {
            "seed": {"seed": 3},
            "mixture": {"mixture": parse_mixture("code=1")},
            "lengths": {"lengths": replace(SHORT, answer=8)},
        }[change]
    with pytest.raises(UserError, match=words) as refused:
        generated(model, tmp_path, 200, **changed)
    assert "choose another --out" in str(refused.value) and contents(tmp_path) == before


def test_every_kind_gets_its_share_of_the_new_tokens(chat, tmp_path, monkeypatch):
    monkeypatch.setattr(filters, "is_repetitive", lambda tokens: False)  # random models loop
    found = generated(chat, tmp_path, 3000, lengths=replace(SHORT, part=1000))
    for kind, share in (("chat", 0.44), ("code", 0.25), ("edit", 0.19), ("prose", 0.12)):
        assert found.kinds[kind].kept / found.kept == pytest.approx(share, abs=0.03)
    new = {kind: 0 for kind in found.kinds}
    for text in found.texts:
        new[text.kind] += sum(map(len, text.answers))
    assert new == {kind: tally.kept for kind, tally in found.kinds.items()}


def test_a_conversation_goes_on_with_the_very_tokens_that_the_model_generated(chat, tmp_path):
    found = generated(chat, tmp_path, 6000, mixture=parse_mixture("chat=1"))
    followed = [text for text in found.texts if text.first_answer is not None]
    assert followed, "no answer ended with the mark of the template"
    for text in followed:
        first, second = text.answers
        between = text.tokens[text.first_answer : text.second_answer]
        assert first[-1] == END and END not in first[:-1] and second
        assert between[0] == USER and between[-2:] == [END, ASSISTANT]
    for text in found.texts:
        assert text.prompt[0] == USER and text.prompt[-2:] == [END, ASSISTANT]
        assert text.ended == (text.tokens[-1] in (256, END))


def test_the_users_own_text_is_continued_from_its_training_part(tmp_path):
    words = [f"w{number:03}" for number in range(400)]
    corpus = Corpus("words", [("words.txt", " ".join(words).encode())])
    model = model_with(ByteTokenizer(), context=64)
    found = generated(model, tmp_path, 400, mixture=parse_mixture("text=1"), own_text=corpus)
    training = bytes(corpus.train.astype(np.uint8))
    for text in found.texts:
        assert len(text.prompt) == SHORT.own_text // 8 and bytes(text.prompt) in training
        assert len(text.prompt + text.tokens) <= SHORT.own_text + 1


def test_own_text_that_is_missing_or_too_short_is_refused_before_anything_is_written(tmp_path):
    model, mixture = model_with(ByteTokenizer()), parse_mixture("text=1")
    short = Corpus("words", [("words.txt", b"abc")])
    for own_text, words in ((None, "give it with --corpus"), (short, "words is too short")):
        with pytest.raises(UserError, match=words):
            generated(model, tmp_path / "out", mixture=mixture, own_text=own_text)
    with pytest.raises(UserError, match="at least 1, not 0"):
        generated(model, tmp_path / "out", 0)
    assert not list(tmp_path.iterdir())


def test_requests_do_not_depend_on_how_they_are_divided(chat):
    def requests():
        return Requests(chat.tokenizer, 2048, 7, SHORT)

    for kind in ("chat", "code", "edit", "prose"):
        whole = requests().of(kind, 0, 12)
        assert requests().of(kind, 5, 7) == whole[5:]
        assert len({tuple(request.prompt) for request in whole}) > 6
    temperatures = [r.sampling.temperature for r in requests().of("code", 0, 400)]
    greedy = sum(temperature == 0 for temperature in temperatures)
    assert 0.3 < greedy / 400 < 0.5
    assert all(t == 0 or 0.5 <= t <= 1 for t in temperatures)


def test_messages_that_are_used_up_come_again_in_another_order_and_are_never_greedy(chat):
    requests = Requests(chat.tokenizer, 2048, 0, SHORT)
    pool = requests._pool_size
    first, again = requests.of("chat", 0, 60), requests.of("chat", pool, 60)
    assert any(r.sampling.greedy for r in first) and not any(r.sampling.greedy for r in again)
    assert [r.prompt for r in first] != [r.prompt for r in again]


def test_prompts_for_training_and_held_out_ones_have_different_files_and_subjects(
    chat, small_library
):
    held_out = Requests(chat.tokenizer, 2048, 0, SHORT, held_out=True)
    training = Requests(chat.tokenizer, 2048, 0, SHORT)
    for kind in ("chat", "edit"):
        prompts = {bytes(t % 256 for t in p) for p in held_out.prompts(kind, 40)}
        assert not prompts & {bytes(t % 256 for t in r.prompt) for r in training.of(kind, 0, 99)}
    files = b"".join(text for name, text in small_library.items() if not is_held_out(name))
    assert all(bytes(r.prompt) in files for r in training.of("code", 0, 50))
    files = b"".join(text for name, text in small_library.items() if is_held_out(name))
    assert all(bytes(p.tolist()) in files for p in held_out.prompts("code", 50))
