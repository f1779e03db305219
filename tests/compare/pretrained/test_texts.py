"""The texts of a comparison on a pretrained model: their parts, and what is stored."""

import ast
import json
import random

import pytest

from minimtp.backend import numpy as np
from minimtp.compare.pretrained.texts import TINY_SIZES, open_texts
from minimtp.decode.batched.texts import TextGenerator
from minimtp.training.data import texts as named_texts
from minimtp.training.data.split import is_held_out
from minimtp.training.self_generated import generate
from minimtp.training.self_generated.prompts import edit_message, first_messages, functions_in
from minimtp.training.self_generated.requests import conversation_tokens
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.training.self_generated.helpers import ChatBytes, model_with


@pytest.fixture(autouse=True)
def small_library(monkeypatch):
    """Use a few files of the standard library, of both sides."""
    every = named_texts.standard_library()
    few = [document for document in every if is_held_out(document[0])][:8]
    few += [document for document in every if not is_held_out(document[0])][:30]
    monkeypatch.setitem(named_texts.NAMED_SOURCES, "stdlib", lambda: sorted(few))
    return dict(few)


@pytest.fixture
def chat():
    return model_with(ChatBytes())


def opened(model, out, writer=None, **options):
    options = {"sizes": TINY_SIZES, "report": lambda line: pytest.fail(line)} | options
    return open_texts(model, writer or model, out, **options)


def corpora(texts):
    return {**texts.quality, "training": texts.training, "own": texts.own}


def test_texts_are_read_from_the_disk_and_not_written_again(chat, tmp_path, monkeypatch):
    first = opened(chat, tmp_path)
    monkeypatch.setattr(TextGenerator, "generate", lambda *a: pytest.fail("written again"))
    again = opened(chat, tmp_path)
    for name, corpus in corpora(first).items():
        assert corpus.fingerprint == corpora(again)[name].fingerprint
    assert json.dumps([[p.tolist() for p in first.prompts[kind]] for kind in first.prompts]) == (
        json.dumps([[p.tolist() for p in again.prompts[kind]] for kind in again.prompts])
    )


def test_only_the_reference_writes_the_held_out_conversations(chat, tmp_path, monkeypatch):
    writers = {}

    class Recorded(TextGenerator):
        def __init__(self, model, kv_cache):
            super().__init__(model, kv_cache)
            self.model = model

        def generate(self, requests, *others):
            for request in requests:
                writers[bytes(t % 256 for t in request.prompt)] = self.model
            return super().generate(requests, *others)

    monkeypatch.setattr(generate, "TextGenerator", Recorded)
    writer = model_with(ChatBytes(), seed=1)
    opened(chat, tmp_path, writer)
    held_out = {text.encode() for text in first_messages(1000, 0, held_out=True)}
    assert {id(model) for model in writers.values()} == {id(chat), id(writer)}
    for prompt, model in writers.items():
        assert any(text in prompt for text in held_out) == (model is chat)


def test_the_marks_of_a_conversation_are_special_tokens(chat, tmp_path):
    texts = opened(chat, tmp_path)
    for tokens in (texts.chat.train, texts.chat.validation, *texts.prompts["edit"]):
        marks = [token for token in tokens.tolist() if token in (257, 258)]
        assert marks[:2] == [257, 258] and set(marks) == {257, 258}
    assert all(prompt[-1] == 258 for prompt in texts.prompts["chat"] + texts.prompts["edit"])


def test_held_out_prompts_come_from_files_that_no_training_text_comes_from(
    chat, tmp_path, small_library
):
    texts = opened(chat, tmp_path)
    sides = {
        side: b"".join(text for name, text in small_library.items() if is_held_out(name) == side)
        for side in (True, False)
    }
    assert texts.code.split == "by file"
    assert all(len(texts.prompts[kind]) == 2 for kind in ("code", "prose", "chat", "edit"))
    for prompt in texts.prompts["code"]:
        assert ByteTokenizer().decode_bytes(prompt) in sides[True]
    assert all(4 <= len(prompt) <= 12 for prompt in texts.prompts["code"] + texts.prompts["prose"])


def test_the_mixture_has_equal_parts(chat, tmp_path):
    texts = opened(chat, tmp_path)
    third = len(texts.training.train) // 3
    shortest = min(len(corpus.train) for corpus in texts.quality.values())
    assert 3 * third == len(texts.training.train) and 0 <= shortest - third < 2
    part = np.array_split(texts.training.train, 3)[0]
    assert bytes(part[:20].astype(np.uint8)) in bytes(texts.code.train.astype(np.uint8))


def test_a_model_without_a_template_converses_as_user_and_assistant(tmp_path):
    said = []
    texts = opened(model_with(ByteTokenizer()), tmp_path, report=said.append)
    assert len(said) == 1 and "no chat template" in said[0]
    assert all(bytes(p.tolist()).endswith(b"\n\nAssistant:") for p in texts.prompts["chat"])
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    tokens = conversation_tokens(ByteTokenizer(), [[*messages, messages[0]]])[0]
    assert bytes(tokens.tolist()) == b"User: Hi.\n\nAssistant: Hello.\n\nUser: Hi.\n\nAssistant:"


def test_prompts_fit_a_model_with_a_short_context(tmp_path):
    texts = opened(model_with(ByteTokenizer(), context=20), tmp_path, report=lambda line: None)
    assert all(1 <= len(p) <= 10 for prompts in texts.prompts.values() for p in prompts)


def test_first_messages_are_different_and_the_held_out_ones_are_about_other_subjects():
    training, held_out = first_messages(10**4, 0), first_messages(10**4, 0, held_out=True)
    assert len(set(training)) == len(training) > 1000 and len(set(held_out)) == len(held_out) > 200
    assert not set(training) & set(held_out)
    for subject in ("batteries", "reading more books", "a young baker"):
        sides = [any(subject in text for text in side) for side in (training, held_out)]
        assert sides.count(True) == 1
    assert first_messages(50, 1) == first_messages(50, 1) != first_messages(50, 2)


def test_functions_are_whole_and_not_indented(small_library):
    found = [functions_in(source) for source in small_library.values()]
    assert sum(map(bool, found)) > len(found) // 2 and functions_in(b"def f(:") == []
    for function in sum(found, []):
        assert isinstance(ast.parse(function).body[0], ast.FunctionDef)
        assert edit_message(function, random.Random(0)).count(function) == 1
