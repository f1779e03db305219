"""The command line: help, options made from the recipe, their values, and a closed pipe."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimtp
from minimtp.cli import main, make_parser
from minimtp.cli.options.recipe import chosen_recipe
from minimtp.cli.options.values import whole_number
from minimtp.training.build import MODEL_SETTINGS
from minimtp.training.presets import fine_tuning, head_training, preset
from minimtp.training.recipe import SETTINGS, Recipe
from tests.cli.helpers import python
from tests.helpers.strategies import recipes


def commands(parser=None, name=""):
    """Return {name: parser} of all commands, also those below another one."""
    found = {}
    for action in (parser or make_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                full = f"{name} {word}".strip()
                found |= {full: below} | commands(below, full)
    return found


@pytest.mark.parametrize("command", commands())
def test_the_help_of_every_command_has_an_example_that_can_be_parsed(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "-h"])
    assert exit_.value.code == 0
    example = re.search(rf"example:\n  minimtp ({command}.*)", capsys.readouterr().out)
    assert make_parser().parse_args(shlex.split(example[1])).command_name.startswith(command)


def test_a_negative_seed_is_refused_by_every_command_that_has_one():
    options = {
        name: action
        for name, parser in commands().items()
        for action in parser._actions
        if "--seed" in action.option_strings
    }
    assert len(options) >= 10
    del options["train"]  # the recipe checks it (tests/training)
    for option in options.values():
        assert option.type("7") == 7
        with pytest.raises(argparse.ArgumentTypeError, match=r"from 0 to 2\^63 - 1, not -1"):
            option.type("-1")


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 0
    assert "quantize" in capsys.readouterr().out


@given(recipes())
def test_every_setting_of_a_recipe_is_an_option(recipe):
    arguments = ["train"]
    for name in SETTINGS:
        value, option = getattr(recipe, name), "--" + name.replace("_", "-")
        if value is None:  # computed from other settings
            continue
        if isinstance(value, bool):
            arguments.append(option if value else option.replace("--", "--no-", 1))
        else:
            arguments += [option, repr(value) if isinstance(value, float) else str(value)]
    assert chosen_recipe(make_parser().parse_args(arguments)) == recipe


def test_a_preset_without_other_options_is_the_recipe():
    parse = make_parser().parse_args
    assert chosen_recipe(parse(["train", "--preset", "laptop"])) == preset("laptop")
    assert chosen_recipe(parse(["train"])) == Recipe()
    assert chosen_recipe(parse(["train", "--resume"])) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("1_000", 1000),
        ("1e6", 10**6),
        ("500k", 500_000),
        ("2M", 2 * 10**6),
        ("1.5k", 1500),
    ],
)
def test_whole_numbers_accept_suffixes_exponents_and_underscores(text, value):
    assert whole_number(text) == value


@given(st.integers(0, 10**18))
def test_a_large_whole_number_keeps_every_digit(number):
    assert whole_number(str(number)) == number


def test_help_and_misspelled_options_do_not_load_numpy():
    code = """
from minimtp.cli import main
for arguments in (["-h"], ["train", "-h"]):
    try: main(arguments)
    except SystemExit: pass
main(["train", "--hiden-size", "3"])
heavy = {"numpy", "numba", "cupy", "matplotlib", "tqdm"}
print("loaded:", *(heavy & set(sys.modules)))
"""
    result = python(code)
    assert "usage: minimtp" in result.stdout
    assert result.stdout.endswith("loaded:\n")
    assert "did you mean --hidden-size?" in result.stderr


def test_the_threads_are_set_before_numpy_is_loaded():
    code = """
import minimtp.cli, minimtp.decode.display.terminal
import minimtp.training.quantize, minimtp.training.run
from minimtp.backend import NUMPY_WAS_LOADED_BEFORE
print(NUMPY_WAS_LOADED_BEFORE)
"""
    assert python(code).stdout == "False\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_a_command_without_an_error(unbuffered):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from minimtp.cli import main; sys.exit(main(['doctor']))",
        ],
        cwd=Path(minimtp.__file__).parents[1],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    notes = process.stderr.read().splitlines()  # a first run compiles the kernels, and says so
    assert [note for note in notes if not note.startswith("minimtp: compiling kernels")] == []
    assert process.wait() == 0


def test_heads_alone_for_a_model_of_another_program_have_settings_of_their_own():
    model = SimpleNamespace(recipe=Recipe(vocabulary_size=49_152))
    sizes = {name: getattr(model.recipe, name) for name in MODEL_SETTINGS}
    heads = ["--heads", "token_conditioned"]
    for options, expected in (
        ([*heads, "--freeze-trunk"], Recipe.from_dict(head_training(sizes))),
        (
            [*heads, "--freeze-trunk", "--draft-depth", "2", "--no-store-states"],
            Recipe.from_dict(head_training(sizes) | {"draft_depth": 2, "store_states": False}),
        ),
        (heads, Recipe.from_dict(fine_tuning(sizes) | {"heads": "token_conditioned"})),
        ([], Recipe.from_dict(fine_tuning(sizes))),
    ):
        parsed = make_parser().parse_args(["train", "--from", "model.gguf", *options])
        parsed.start_from = model  # as `minimtp train` loads it
        assert chosen_recipe(parsed) == expected
