"""The texts of a comparison on a pretrained model: their parts, and what is stored."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from minimtp.compare.pretrained.prompts import first_messages, functions_in

from minimtp.backend import numpy as np
from minimtp.compare.pretrained import texts as texts_module
from minimtp.compare.pretrained import written
from minimtp.compare.pretrained.texts import TINY_SIZES, conversation_tokens, open_texts
from minimtp.training.build import build_model
from minimtp.training.data import texts as named_texts
from minimtp.training.data.byte_tokenizer import ByteTokenizer
from minimtp.training.data.split import is_held_out
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LoadedRun

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class ChatBytes(ByteTokenizer):
    """Bytes, and three marks of a chat."""

    vocabulary_size = 260
    special_tokens = {"<|user|>": 257, "<|assistant|>": 258, "<|end|>": 259}
    end_tokens = (256, 259)
    chat_template = TEMPLATE

    def encode(self, text, special=False):
        found = []
        while text:
            mark = next((m for m in self.special_tokens if special and text.startswith(m)), None)
            found += [self.special_tokens[mark]] if mark else text[0].encode()
            text = text[len(mark) if mark else 1 :]
        return np.array(found, np.int64)

    def decode_bytes(self, tokens):
        return bytes(int(token) for token in tokens if token < 256)

    def byte_counts(self):
        return np.array([1] * 256 + [0] * 4)


def model_with(tokenizer, seed=0, context=2048):
    """Return a small random model, as if it had been loaded."""
    recipe = Recipe(
        context_length=context, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1,
        intermediate_size=32, vocabulary_size=tokenizer.vocabulary_size, tokens=4096,
        batch_size=2,
    )  # fmt: skip
    model = build_model(recipe, np.random.default_rng(seed))
    model.embedding.weight.data *= 5  # or every next token is equally likely
    return LoadedRun(Path("model"), model, tokenizer, recipe)


@pytest.fixture(autouse=True)
def small_library(monkeypatch):
    """Use a few files of the standard library, of both sides."""
    every = named_texts.standard_library()
    few = [document for document in every if is_held_out(document[0])][:8]
    few += [document for document in every if not is_held_out(document[0])][:30]
    monkeypatch.setattr(named_texts, "standard_library", lambda: sorted(few))
    # A random model repeats itself. Its texts are as good as any here.
    monkeypatch.setattr(written, "is_repetitive", lambda tokens: False)
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
    monkeypatch.setattr(written, "generate_texts", lambda *a, **k: pytest.fail("written again"))
    again = opened(chat, tmp_path)
    for name, corpus in corpora(first).items():
        assert corpus.fingerprint == corpora(again)[name].fingerprint
    assert json.dumps([[p.tolist() for p in first.prompts[kind]] for kind in first.prompts]) == (
        json.dumps([[p.tolist() for p in again.prompts[kind]] for kind in again.prompts])
    )


@pytest.mark.parametrize("change", ["seed", "model", "sizes"])
def test_texts_of_another_model_seed_or_size_are_not_used(chat, tmp_path, change):
    before = opened(chat, tmp_path)
    writer = model_with(ChatBytes(), seed=1) if change == "model" else chat
    sizes = replace(TINY_SIZES, conversations=6) if change == "sizes" else TINY_SIZES
    after = opened(chat, tmp_path, writer, sizes=sizes, seed=int(change == "seed"))
    assert after.own.fingerprint != before.own.fingerprint
    fresh = opened(chat, tmp_path / "new", writer, sizes=sizes, seed=int(change == "seed"))
    assert after.own.fingerprint == fresh.own.fingerprint


def test_a_damaged_part_costs_one_line_and_is_written_again(chat, tmp_path):
    before, said = opened(chat, tmp_path), []
    path = tmp_path / "texts" / "edit.json"
    path.write_text(path.read_text()[:200])
    after = opened(chat, tmp_path, report=said.append)
    assert after.own.fingerprint == before.own.fingerprint
    assert len(said) == 1 and "edit.json" in said[0] and "written again" in said[0]
    assert opened(chat, tmp_path).own.fingerprint == before.own.fingerprint


def test_only_the_reference_writes_the_held_out_conversations(chat, tmp_path, monkeypatch):
    writers = {}
    generate = written.generate_texts

    def recorded(model, requests, **options):
        for request in requests:
            writers[bytes(t % 256 for t in request.prompt)] = model
        return generate(model, requests, **options)

    monkeypatch.setattr(written, "generate_texts", recorded)
    writer = model_with(ChatBytes(), seed=1)
    opened(chat, tmp_path, writer)
    held_out = {text.encode() for text in first_messages(1000, 0, held_out=True)}
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
    for prompt in texts.tuning_prompts["code"]:
        assert ByteTokenizer().decode_bytes(prompt) in sides[False]
    assert all(4 <= len(prompt) <= 12 for prompt in texts.prompts["code"] + texts.prompts["prose"])


def test_texts_that_run_in_a_loop_are_left_out(chat, tmp_path, monkeypatch):
    every = opened(chat, tmp_path).own
    monkeypatch.setattr(written, "is_repetitive", lambda tokens: tokens[0] % 2 == 0)
    rest = opened(chat, tmp_path).own
    assert 0 < rest.files < every.files


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
    found = list(functions_in(list(small_library.values()), 0, per_file=2))
    assert len(found) > len(small_library) // 2
    for function in found:
        compile(function, "function", "exec")
        assert function.startswith("def ")
    assert texts_module.edit_messages(found[:1], 0)[0].count(found[0]) == 1
