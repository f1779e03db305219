"""Printed commands work when they are pasted into a shell, and messages stay in one line."""

import io
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minimtp.quoting import MAX_SHOWN, command, shown_path

NAMES = st.one_of(
    st.lists(st.sampled_from([*" '\"$`\\!*?[]{}()<>|&;#~%=-\n\tab/", "é", "猫", "$HOME", "\udcff"]))
    .map("".join),
    st.binary(max_size=12).map(os.fsdecode),
).filter(lambda name: name and "\0" not in name)  # fmt: skip


@given(NAMES)
@example("-n")
@example("\n")
@example("a\udcff\udcfe\n'\udcfd")
@example("%d\\101\udcff")
def test_a_shell_splits_a_printed_command_into_the_words_it_was_made_of(name):
    line = command("printf", "%s", name)
    if not re.search("[\udc80-\udcff]", name):
        assert shlex.split(line) == ["printf", "%s", name]
    line.encode()  # it can be printed


def test_a_real_shell_passes_every_name_on(tmp_path):
    names = ["a b", "a'b", '"', "$HOME", "`id`", "$(id)", "a\nb", "\n", "~", "*", "-x", "!!", "\\n"]
    names += ["\udcff", "a\udcff b'\n\udcfe\n", "%s%d\udcff", "猫 \udc80", "a;b", "#", "=", "\t"]
    line = "; ".join(command("printf", "%s\\0", name) for name in names)
    said = subprocess.run(["sh", "-c", line], capture_output=True, cwd=tmp_path, check=True).stdout
    assert said.split(b"\0")[:-1] == [os.fsencode(name) for name in names]


def test_a_path_that_begins_with_a_dash_is_not_taken_for_an_option():
    assert command("minimtp", "generate", Path("-run"), "--stop", "-x") == (
        "minimtp generate ./-run --stop -x"
    )


@given(NAMES)
def test_a_path_in_a_message_is_one_printable_line_of_limited_length(name):
    shown = shown_path(name)
    assert shown.isprintable() and len(shown) <= MAX_SHOWN
    if name.isprintable() and len(name) <= MAX_SHOWN:
        assert shown == name


def test_a_command_for_a_terminal_that_shows_ascii_only_still_names_the_file(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    lines = [command("printf", "%s\\0", name) for name in ("тест 猫.txt", "a", "é\n")]
    assert all(line.isascii() for line in lines)
    said = subprocess.run(["sh", "-c", "; ".join(lines)], capture_output=True, check=True).stdout
    assert said.decode() == "тест 猫.txt\0a\0é\n\0"


def test_an_empty_path_is_shown():
    assert shown_path("") == "''"


def test_a_long_path_keeps_its_beginning_and_its_end():
    shown = shown_path("/tmp/" + "x" * 500 + "/notes.txt")
    assert shown.startswith("/tmp/x") and shown.endswith("/notes.txt") and "..." in shown


@pytest.mark.parametrize(
    "name, shown", [("a\nb", "a\\nb"), ("\udcff", "\\xff"), ("\x1b[0m", "\\x1b[0m")]
)
def test_characters_that_cannot_be_shown_are_escaped(name, shown):
    assert shown_path(name) == shown
