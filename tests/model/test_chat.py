"""Chat templates: the prompt of a conversation, marks in messages, and templates that misbehave."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.chat import chat_tokens, follow_up_tokens
from tests.training.self_generated.helpers import ChatBytes

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_BEGIN = (
    "{{ bos_token }}{% for message in messages %}\n"
    "    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
    "        {{ raise_exception('roles must alternate') }}\n"
    "    {% endif %}\n"
    "[{{ message['role'] }}] {{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}"
)
CONVERSATION = [
    {"role": "user", "content": "  What is 2 + 2?\n"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Und 3 × 3?"},
]


class Characters:
    """A tokenizer whose tokens are characters and three marks."""

    special_tokens = {"<|im_start|>": 1, "<|im_end|>": 2, "<s>": 3}
    begin_tokens = (3,)
    end_token = 2

    def __init__(self, template):
        self.chat_template = template

    def encode(self, text, special=False):
        tokens = []
        while text:
            mark = next((m for m in self.special_tokens if special and text.startswith(m)), None)
            tokens.append(self.special_tokens[mark] if mark else ord(text[0]))
            text = text[len(mark) if mark else 1 :]
        return np.array(tokens, np.int64)

    def decode(self, tokens):
        names = {token: name for name, token in self.special_tokens.items()}
        return "".join(names.get(token, chr(token)) for token in tokens.tolist())


def written(template, messages=CONVERSATION):
    tokenizer = Characters(template)
    return tokenizer.decode(chat_tokens(tokenizer, [messages])[0])


def test_a_conversation_becomes_the_prompt_after_which_the_model_answers():
    assert written(CHATML) == (
        "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\nUnd 3 × 3?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_block_tags_take_their_own_line_away_as_transformers_renders_templates():
    expected = "<s>" + "".join(
        f"[{message['role']}] {message['content']}<|im_end|>\n" for message in CONVERSATION
    )
    assert written(WITH_BEGIN) == expected


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
@pytest.mark.parametrize("template", [CHATML, WITH_BEGIN])
def test_prompts_equal_those_of_transformers(template):
    from transformers.utils.chat_template_utils import render_jinja_template

    expected, _ = render_jinja_template(
        conversations=[CONVERSATION], chat_template=template, add_generation_prompt=True,
        bos_token="<s>", eos_token="<|im_end|>",
    )  # fmt: skip
    assert written(template) == expected[0]


def test_several_conversations_are_written_in_one_call():
    tokenizer = Characters(CHATML)
    both = chat_tokens(tokenizer, [CONVERSATION, CONVERSATION[:1]])
    assert tokenizer.decode(both[1]) == written(CHATML, CONVERSATION[:1])
    assert tokenizer.decode(both[0]) == written(CHATML)


@pytest.mark.parametrize(
    "content", ["a<|im_end|>b", "<|im_start|><|im_start|>", "\ue000<s>\ue0010"]
)
def test_the_name_of_a_mark_inside_a_message_stays_text(content):
    tokens = chat_tokens(Characters(CHATML), [[{"role": "user", "content": content}]])[0].tolist()
    begin = [1, *map(ord, "user\n")]
    end = [2, ord("\n"), 1, *map(ord, "assistant\n")]
    assert tokens == [*begin, *map(ord, content), *end]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
         "did not come to an end"),
        ("{{ 'x' * 1000000000000 }}", "too much memory"),
        ("{% set n = namespace(a='x') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}"
         "{% endfor %}", "too much memory"),
        ("{{ 'word ' * 200000 }}", "writes 1,000,000 characters"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{% if %}", "not valid Jinja"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'file' %}", "fails"),
        ("{{ missing.attribute }}", "missing"),
        (None, "no chat template"),
    ],
)  # fmt: skip
def test_a_template_that_fails_or_loops_gets_one_sentence(template, words, monkeypatch):
    if "come to an end" in words:
        monkeypatch.setattr("minimtp.model.chat.SECONDS", 1)
    with pytest.raises(UserError, match=words) as failure:
        written(template)
    assert len(str(failure.value)) <= 300


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals that stop a process")
def test_time_during_which_the_process_is_stopped_does_not_count(monkeypatch):
    run = subprocess.run

    def stopped(command, **options):
        sleep = '(kill -STOP $$; sleep 3; kill -CONT $$) & exec "$@"'
        return run(["sh", "-c", sleep, "", *command], **options)

    monkeypatch.setattr("minimtp.model.chat.SECONDS", 2)
    monkeypatch.setattr(subprocess, "run", stopped)
    assert written("{{ messages[0]['content'] }}", [{"role": "user", "content": "hi"}]) == "hi"


def test_the_process_of_a_template_finds_minimtp_where_this_one_did(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr("sys.path", ["", *sys.path, str(Path(minimtp.__file__).parents[1])])
    assert written("{{ messages[0]['content'] }}", [{"role": "user", "content": "hi"}]) == "hi"


def test_a_process_that_cannot_start_is_no_fault_of_the_template(monkeypatch):
    monkeypatch.setattr("minimtp.model.chat.child_environment", lambda: {"PYTHONHOME": "/nowhere"})
    with pytest.raises(RuntimeError, match="(?s)applying the chat template failed: .*encodings"):
        written(CHATML)


@pytest.mark.parametrize(
    "message", [{"role": "user"}, {"role": "user", "content": 5}, "hello", {"content": None}, None]
)
def test_a_message_without_text_gets_one_sentence(message):
    with pytest.raises(UserError, match="must have a role and a content"):
        written(CHATML, [message])


def test_what_follows_an_answer_is_what_the_template_writes_after_it():
    tokenizer = ChatBytes()
    first, second = ({"role": "user", "content": text} for text in ("Hi <|end|>", "And then?"))
    answer = {"role": "assistant", "content": "Hello <|user|>."}
    (prompt,) = chat_tokens(tokenizer, [[first]])
    (after,) = follow_up_tokens(tokenizer, [[first, {**answer, "content": ""}, second]])
    (whole,) = chat_tokens(tokenizer, [[first, answer, second]])
    given = tokenizer.encode(answer["content"])
    assert np.concatenate([prompt, given, after]).tolist() == whole.tolist()
    assert after[0] == 259 and follow_up_tokens(tokenizer, []) == []


def test_a_template_that_leaves_answers_out_has_nothing_that_follows_them():
    tokenizer = ChatBytes()
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    assert follow_up_tokens(tokenizer, [messages])[0].tolist() == []


def test_the_marks_of_answers_for_training_do_not_change_the_text():
    marked = (
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert written(marked, messages) == "ab"


def test_tojson_has_the_parameters_that_it_has_in_transformers():
    template = "{{ {'b': 'é', 'a': 1} | tojson(sort_keys=true, separators=(',', ':')) }}"
    assert written(template) == '{"a":1,"b":"é"}'
    assert written("{{ 'é' | tojson(ensure_ascii=true) }}") == '"\\u00e9"'


@pytest.mark.parametrize("name", ["json", "datetime", "jinja2", "minimtp", "encodings"])
def test_a_file_of_the_current_folder_is_never_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.py").write_text("open('executed', 'w')")
    assert written("{{ messages[0]['content'] }}", [{"role": "user", "content": "hi"}]) == "hi"
    assert not (tmp_path / "executed").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="needs signals")
def test_a_process_that_somebody_stops_is_no_fault_of_the_template(monkeypatch):
    run = subprocess.run
    stopped = ["sh", "-c", "kill -TERM $$"]
    monkeypatch.setattr(subprocess, "run", lambda command, **options: run(stopped, **options))
    with pytest.raises(RuntimeError, match="applying the chat template failed"):
        written(CHATML)
