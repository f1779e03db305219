"""The terminal display shows what happened, and generated text cannot control the terminal."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.decode.display.terminal import acceptance, pieces, show, styled, visible, wants_colour
from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.round import Round
from minimtp.decode.statistics import Statistics
from tests.helpers.table_models import TableTarget, greedy_text


class Letters:
    """A tokenizer whose token i is the i-th letter. Token 25 is the escape character."""

    @staticmethod
    def decode_bytes(tokens):
        return bytes(97 + token if token < 25 else 0x1B for token in tokens)


def raw(tokens):
    return bytes(token for token in tokens if token < 256)


def shown(rounds, prompt=b""):
    return list(pieces(list(prompt), rounds, raw))


def test_accepted_rejected_and_corrected_tokens_are_shown_in_order_with_their_marks():
    rounds = [
        Round(0, [], 0, [*b"a"]),
        Round(1, [*b"bcx?"], 2, [*b"bcd"]),
        Round(4, [*b"ef"], 2, [*b"efg"]),
        Round(7, [*b"y"], 0, [*b"h"]),
    ]
    assert shown(rounds, b">") == [
        ("prompt", ">"), ("plain", "a"),
        ("accepted", "bc"), ("rejected", "x?"), ("corrected", "d"),
        ("accepted", "ef"), ("plain", "g"),
        ("rejected", "y"), ("corrected", "h"),
    ]  # fmt: skip


def test_a_character_that_spans_rounds_is_shown_once():
    euro = list("€".encode())
    rounds = [Round(0, [], 0, euro[:1]), Round(1, [euro[1], 9], 1, [euro[1], euro[2]])]
    assert shown(rounds) == [("rejected", "\\t"), ("corrected", "€")]


def test_an_incomplete_or_invalid_character_is_shown_as_a_replacement_character():
    assert shown([Round(0, [], 0, [0xE2]), Round(1, [], 0, [65])]) == [("plain", "\ufffdA")]
    assert shown([Round(0, [], 0, [0xE2])]) == [("plain", "\ufffd")]


def test_a_token_without_bytes_such_as_the_end_token_shows_nothing():
    assert shown([Round(0, [65, 256], 2, [65, 256])]) == [("accepted", "A")]


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 256), max_size=5), st.integers(0, 5), st.integers(0, 256)
        ),
        max_size=6,
    )
)
def test_the_pieces_together_are_the_text_without_control_characters(rounds):
    rounds = [
        Round(0, drafts, min(a, len(drafts)), [*drafts[:a], token]) for drafts, a, token in rounds
    ]
    parts = shown(rounds)
    text = raw([token for round_ in rounds for token in round_.tokens]).decode("utf-8", "replace")
    assert "".join(part for kind, part in parts if kind != "rejected") == visible(text)
    assert all(
        part and (part.replace("\n", "").replace("\t", "") or "x").isprintable()
        for _, part in parts
    )


def test_escape_sequences_in_generated_text_do_not_reach_the_terminal():
    assert visible("a\x1b[2Jb\r\x07\u202e\x9bc\n\t") == "a\\x1b[2Jb\\r\\x07\\u202e\\x9bc\n\t"


def test_marks_and_colours_enclose_the_text():
    kinds = ("accepted", "rejected", "corrected", "plain", "prompt")
    marked = [styled(kind, "x", False) for kind in kinds]
    assert marked == ["{=x=}", "[-x-]", "{+x+}", "x", "x"]
    assert styled("accepted", "x", True) == "\x1b[32mx\x1b[0m"
    assert styled("plain", "x", True) == "x"


@pytest.mark.parametrize("colour", [True, False])
def test_showing_a_generation_writes_its_text_and_its_acceptance_rates(colour):
    target, out = TableTarget(4, seed=1), io.StringIO()
    right = FunctionDrafter(
        lambda tokens, depth, rule: (greedy_text(target, tokens, depth), None), 3
    )
    run = start_generation(target, right, [0, 1], GenerationOptions(max_new_tokens=9))
    show(run, Letters(), out, colour)
    text, summary = re.sub(r"\x1b\[[0-9;]*m|\{=|=\}|\{\+|\+\}", "", out.getvalue()).split("\n\n")
    assert text == Letters.decode_bytes(run.tokens).decode()
    assert summary == f"accepted {'rejected' if colour else '[-rejected-]'} corrected\n" + (
        "accepted by depth: 100%, 100%, 100%; 4.00 tokens per step\n"
    )
    assert ("\x1b" in out.getvalue()) is colour


def test_characters_that_a_stream_cannot_encode_become_question_marks():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    class Accents:
        @staticmethod
        def decode_bytes(tokens):
            return "é".encode() * len(tokens)

    show(
        start_generation(TableTarget(), None, [0], GenerationOptions(max_new_tokens=2)),
        Accents(),
        out,
    )
    assert out.buffer.getvalue().startswith(b"???\n\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colours_are_used_only_on_terminals_that_show_them(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal()) and not wants_colour(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_acceptance_lists_only_depths_that_were_drafted():
    assert (
        acceptance(Statistics(drafts_of_length=[3], drafts_accepted=[3])) == "nothing was drafted"
    )
    counts = Statistics(
        emitted=5, steps=2, drafts_of_length=[0, 1, 1, 0], drafts_accepted=[0, 2, 0, 0]
    )
    assert acceptance(counts) == "accepted by depth: 100%, 0%; 2.00 tokens per step"
