"""An empty value, as an unset variable of a shell leaves it (--out "$DIR"), is refused. It never
stands for the default.
"""

import argparse

import pytest

from minimtp.cli import make_parser
from minimtp.errors import UserError
from tests.cli.helpers import refused
from tests.fuzz.mutate import check_sentence


def actions_of(parser, prefix=()):
    """Yield (words of the command, an argument that takes a value)."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from actions_of(below, (*prefix, name))
        elif action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction):
            yield prefix, action


# A text may be empty as far as the parser knows.
CASES = [case for case in actions_of(make_parser()) if case[1].metavar != "TEXT"]


@pytest.mark.parametrize(
    ("command", "action"), CASES, ids=[" ".join((*c, a.dest)) for c, a in CASES]
)
def test_an_empty_value_is_refused_with_the_name_of_the_option(command, action):
    name = action.option_strings[-1] if action.option_strings else None
    words = [f"{name}="] if name else [""]
    with pytest.raises(UserError) as error:
        make_parser().parse_args([*command, *words])
    check_sentence(str(error.value), name or action.metavar)


def test_an_empty_name_among_several_is_refused_too(capsys):
    said = refused(capsys, "train", "--corpus", "poem.txt", "", "--out", "new")
    assert "--corpus is empty" in said


@pytest.mark.parametrize(
    "option", ["--out", "--recipe", "--tokenizer", "--teacher", "--from", "--quantized-start"]
)
def test_training_does_not_start_with_an_empty_value(capsys, option):
    words = ["train", "--preset", "tiny", "--corpus", "poem.txt", "--out", "new", option, ""]
    assert f"{option} is empty" in refused(capsys, *words)
