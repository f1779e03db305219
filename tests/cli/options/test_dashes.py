"""Values of options may begin with a dash, and a forgotten value is still noticed."""

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minimtp.cli import main, make_parser
from minimtp.cli.options.dashes import LOOKS_LIKE_AN_OPTION
from minimtp.errors import UserError
from tests.cli.helpers import refused

PARSER = make_parser()
TEXTS = st.text(st.sampled_from('-= ax1.\n/é"'), max_size=6)


@given(TEXTS, TEXTS)
@example("---", "-x")
@example("--", "-")
@example("- a list", "-1")
@example("-h", "-x=1")
@example("--prompt", "--stop=x")
@example("--seed", "5")
def test_a_value_is_read_as_it_was_given_or_refused_with_the_way_to_write_it(prompt, stop):
    names = PARSER.parse_args(["generate", "run"]).parser.option_names
    option_like = [
        value
        for value in (prompt, stop)
        if value.partition("=")[0] in names or LOOKS_LIKE_AN_OPTION.match(value)
    ]
    given_ = ["generate", "run", "--prompt", prompt, "--stop", stop, "--seed", "5"]
    if not option_like:
        options = PARSER.parse_args(given_)
        assert (options.prompt, options.stop, options.seed) == ([prompt], [stop], 5)
    elif "-h" not in option_like and "--help" not in option_like:
        with pytest.raises(UserError, match="write --(prompt|stop)=VALUE if it begins with dashes"):
            PARSER.parse_args(given_)
    options = PARSER.parse_args(["generate", "run", f"--prompt={prompt}", f"--stop={stop}"])
    assert (options.prompt, options.stop) == ([prompt], [stop])


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("train --out -runs/x", "out", "-runs/x"),
        ("train --corpus -a.txt b.txt -c.txt --out x", "corpus", ["./-a.txt", "b.txt", "./-c.txt"]),
        ("train --from -run --heads none", "start_from", "-run"),
        ("bench decode -- -run", "model", "-run"),
        ("bench decode run --temperatures 0 -1 --out -x", "temperatures", [0.0, -1.0]),
        ("generate run --trace -page.html --show", "trace", "-page.html"),
        ("generate run --chat '- one\n- two'", "chat", "- one\n- two"),
        ("generate run --draft none --chat -h1", "chat", "-h1"),
        ("generate run --prompt - --stop --", "stop", ["--"]),
        ("quantize run --calibration -x.txt --out y", "calibration", ["./-x.txt"]),
        ("evaluate run --json --corpus -x", "corpus", ["./-x"]),
        ("compare --out -x --seed 3", "out", "-x"),
    ],
)
def test_paths_and_numbers_may_begin_with_a_dash(command, name, value):
    assert vars(PARSER.parse_args(shlex.split(command)))[name] == value


def test_a_forgotten_value_is_noticed():
    for command, option in (
        ("train --out --resume", "--out"),
        ("train --resume --out", "--out"),
        ("generate run --prompt --seed 3", "--prompt"),
        ("generate run --stop --sed 3", "--stop"),
    ):
        with pytest.raises(UserError, match=f"argument {option}: expected one argument"):
            PARSER.parse_args(command.split())


def test_a_misspelled_option_is_still_noticed(capsys):
    assert "did you mean --seed?" in refused(capsys, "generate", "run", "--sed", "3")
    assert "did you mean --corpus?" in refused(capsys, "evaluate", "run", "--corpsu", "x")


def test_a_run_and_a_text_whose_names_begin_with_a_dash_are_trained_and_used(capsys, run):
    run.rename("-run")
    Path("-notes.txt").write_bytes(Path("poem.txt").read_bytes())
    assert main(["evaluate", "--corpus", "-notes.txt", "--", "-run"]) == 0
    capsys.readouterr()
    command = ["train", "--from", "-run", "--corpus", "-notes.txt", "--tokens", "256"]
    assert main([*command, "--out", "-tuned", "--stop-at-step", "1"]) == 0
    said = capsys.readouterr().out
    resume = re.search("resume with: minimtp (.*)\n", said)[1]
    assert resume == "train --out ./-tuned --resume"
    assert main(shlex.split(resume)) == 0
    capsys.readouterr()
    assert main(["generate", "-run", "--prompt", "-x", "--stop", "---"]) == 0
    assert capsys.readouterr().out.startswith("-x")
