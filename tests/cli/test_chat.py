"""`minimtp chat` and `generate --chat` keep a conversation in the form of the chat template."""

import io

import pytest

from minimtp.cli import main
from minimtp.model import chat
from tests.formats.huggingface.test_folder import whole_folder


def piped(content):
    return io.TextIOWrapper(io.BytesIO(content), "ascii")


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole_folder(tmp_path / "model")
    return "model"


@pytest.fixture
def conversations(monkeypatch):
    """Return a list that receives every conversation that is turned into a prompt."""
    seen, original = [], chat.chat_tokens

    def watched(tokenizer, messages, *options):
        seen.append([dict(message) for message in messages[0]])
        return original(tokenizer, messages, *options)

    monkeypatch.setattr(chat, "chat_tokens", watched)
    return seen


def test_a_chat_remembers_its_messages_until_a_new_one_begins(
    model, conversations, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdin", piped(b"one\n\ntwo\n/new\nthree\n/quit\nfour\n"))
    assert main(["chat", model, "--system", "be short", "--max-new-tokens", "4"]) == 0
    said = capsys.readouterr()
    first, second, third = conversations
    system = {"role": "system", "content": "be short"}
    assert first == [system, {"role": "user", "content": "one"}]
    assert second[:2] == first and second[3] == {"role": "user", "content": "two"}
    assert second[2]["role"] == "assistant" and second[2]["content"] in said.out
    assert third == [system, {"role": "user", "content": "three"}]
    assert said.err.count("tokens/s") == 3
    assert said.out.count("\n") >= 3 and said.out.endswith("\n")


def test_a_chat_names_options_without_effect_once(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", piped(b"one\ntwo\n"))
    options = ["--draft", "none", "--tree", "3", "--top-k", "5", "--max-new-tokens", "2"]
    assert main(["chat", model, *options]) == 0
    said = capsys.readouterr().err
    assert said.count("--top-k has no effect") == 1 and said.count("--tree has no effect") == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_a_message_that_is_too_long_does_not_end_the_chat(
    model, conversations, capsys, monkeypatch
):
    lines = iter(["x" * 500, "/new", "hi", "/quit"])
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda mark: next(lines))
    assert main(["chat", model, "--context", "64", "--max-new-tokens", "2"]) == 0
    said = capsys.readouterr().err
    assert "but the context holds 64" in said and "/new begins a new conversation" in said
    assert conversations[-1] == [{"role": "user", "content": "hi"}]


def test_generate_answers_one_message_and_prints_only_the_answer(model, conversations, capsys):
    assert main(["generate", model, "--chat", "hello", "--max-new-tokens", "4"]) == 0
    assert conversations == [[{"role": "user", "content": "hello"}]]
    assert "hello" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "model", "--chat", "a", "--prompt", "b"], "use one of them"),
        (["chat", "run"], "there is no run folder run"),
        (["chat", "model", "--context", "3"], "context"),
    ],
)
def test_a_chat_that_is_impossible_gets_one_sentence(model, arguments, words, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", piped(b"a long message\n"))
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_model_without_a_chat_template_gets_one_sentence(model, capsys, monkeypatch, tmp_path):
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    monkeypatch.setattr("sys.stdin", piped(b"hello\n"))
    for arguments in (["chat", "model"], ["generate", "model", "--chat", "hello"]):
        assert main(arguments) == 2
        assert "no chat template" in capsys.readouterr().err


TALK = "h\u00e9\n\u732b\n/quit\nno\n"


@pytest.mark.parametrize(
    "content",
    [TALK.encode(), TALK.encode("utf-8-sig"), TALK.encode("utf-16"), TALK.encode("utf-32"),
     TALK.replace("\n", "\r\n").encode()],
)  # fmt: skip
def test_piped_messages_are_read_like_every_text_whatever_the_terminal_expects(
    content, model, conversations, monkeypatch
):
    monkeypatch.setattr("sys.stdin", piped(content))
    assert main(["chat", model, "--max-new-tokens", "2"]) == 0
    asked = [[m["content"] for m in found if m["role"] == "user"] for found in conversations]
    assert asked == [["h\u00e9"], ["h\u00e9", "\u732b"]]


def test_a_piped_message_that_is_no_text_gets_one_sentence(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", piped(b"hi\nho\xff\n"))
    assert main(["chat", model, "--max-new-tokens", "2"]) == 2
    assert "line 2 of the standard input is not UTF-8" in capsys.readouterr().err
